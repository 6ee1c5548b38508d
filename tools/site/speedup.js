"use strict";

/* Draws what is chosen, and lets the controls choose. */
(() => {
  const { data } = Numbers;
  const at = (id) => document.getElementById(id);
  const { state, NONE, machineOf, resultOf, modelsOf, has, usualMetric } = Selection;

  function offerMetric(metric) {
    at("other-metric").hidden = !metric;
    at("other-metric").textContent = metric ? `Show ${metric.title.toLowerCase()}` : "";
    at("other-metric").onclick = () => change({ metric: metric.id });
  }

  const option = (value, text) => Tables.make("option", { value, textContent: text });

  function fill(id, options, value) {
    at(id).replaceChildren(...options);
    at(id).value = String(value);
  }

  function commitText(hash) {
    const { subject, date, published } = Numbers.commits.get(hash);
    return `${Numbers.short(hash)} ${Numbers.date(date)} ${subject}${published ? "" : " (not on a published branch)"}`;
  }

  function showControls(machine) {
    const { results } = machine;
    const place = results.findIndex(({ commit }) => commit === state.commit);
    const commits = () => results.map(({ commit }) => option(commit, commitText(commit))).reverse();
    fill(
      "machine",
      data.machines.map(({ name, about }) => option(name, about.gpu ? `${name} (${about.gpu})` : name)),
      state.machine,
    );
    fill("commit", commits(), state.commit);
    fill("base", [option(NONE, "no other commit"), ...commits()], state.base);
    fill(
      "model",
      modelsOf(machine).map(({ name, kind }) => option(name, `${name}, ${kind}`)),
      state.model,
    );
    fill(
      "tokens",
      machine.tokens.map((count) => option(count, String(count))),
      state.tokens,
    );
    const groups = [...new Set(Numbers.metrics.map(({ group }) => group))];
    fill(
      "metric",
      groups.map((label) =>
        Tables.make(
          "optgroup",
          { label },
          ...Numbers.metrics.filter(({ group }) => group === label).map((metric) => option(metric.id, metric.label)),
        ),
      ),
      state.metric,
    );
    at("history").max = results.length - 1;
    at("history").value = place;
    at("history").setAttribute("aria-valuetext", commitText(state.commit));
    at("earlier").disabled = place === 0;
    at("later").disabled = place === results.length - 1;
    at("scale-of-steps").value = state.scale;
    at("moved").checked = state.moved;
  }

  /* One sentence: the means over all cells of the commit, or against the other commit. */
  function headline({ machine, result, base, models }) {
    const mean = (number) => {
      const found = models
        .flatMap(({ name }) => machine.tokens.map((_, index) => number(name, index)))
        .filter(Numbers.isNumber);
      return found.length && { number: Numbers.geometricMean(found), count: found.length };
    };
    const parts = [];
    const add = (before, bold, after) =>
      parts.push(parts.length ? "; " : "", before, Tables.make("b", { textContent: bold }), after);
    const by = (id) => Numbers.metrics.find((metric) => metric.id === id);
    if (base) {
      for (const provider of data.providers) {
        const found = mean((name, index) => Numbers.better(by(`${provider}-time`), result, base, name, index));
        if (found) {
          add(`${provider} is `, `${Numbers.three(found.number)}\u00d7`, " as fast");
        }
      }
    } else {
      for (const metric of Numbers.metrics.filter(({ group }) => group === "Speedup")) {
        const found = mean((name, index) => metric.value(result, name, index));
        if (found) {
          add(`${metric.label} `, `${Numbers.three(found.number)}\u00d7`, "");
        }
      }
      const share = by("triton-roofline");
      const found = share && mean((name, index) => share.value(result, name, index));
      if (found) {
        add("triton at ", share.write(found.number), " of the roofline, an elementwise kernel whose calls do not overlap");
      }
    }
    if (!parts.length) {
      return ["No provider can be compared with another at this commit."];
    }
    const place = machine.about.gpu || machine.about.cpu || machine.name;
    const against = base ? ` against ${Numbers.short(base.commit)}` : "";
    return [
      `${place}, ${Numbers.short(result.commit)}${against}: `,
      ...parts,
      " (geometric means over models and tokens).",
    ];
  }

  function draw() {
    const machine = machineOf();
    const result = resultOf(machine, state.commit);
    const base = resultOf(machine, state.base);
    const models = modelsOf(machine);
    const metric = Numbers.metrics.find(({ id }) => id === state.metric);
    const index = machine.tokens.indexOf(state.tokens);
    const shown = { machine, result, base, models, model: state.model, tokens: state.tokens, index, metric };
    Object.assign(shown, { scale: state.scale, isMovedOnly: state.moved });
    // A commit that is on no published branch has no place in its history, unless it was chosen.
    shown.results = machine.results.filter(
      (one) => one === result || one === base || Numbers.commits.get(one.commit).published,
    );
    shown.changes = Numbers.environmentChanges(shown.results);

    showControls(machine);
    at("headline").replaceChildren(...headline(shown));
    const numbers = Tables.grid(at("grid"), at("scale"), shown, (model, tokens) => change({ model, tokens }));
    at("grid-note").textContent = gridNote(numbers, shown);
    offerMetric(
      numbers.length ? undefined : Numbers.metrics.find((one) => has(one, base ? [result, base] : [result], shown)),
    );
    Tables.numbers(at("numbers"), shown);
    Tables.steps(at("steps"), shown, (commit) => change({ commit }));
    Tables.environment(at("environment"), at("environment-note"), shown);
    at("steps-title").textContent = `History of ${state.model} at ${state.tokens} tokens`;
    at("latency-note").textContent = missing(shown);
    if (window.Plotly) {
      Charts.latency(at("latency"), shown);
      Charts.steps(at("steps-chart"), shown, (commit) => change({ commit }));
    }
    at("graphs").replaceChildren(...graphs(shown));
    const silent = shown.results.filter(({ environment }) => !environment.torch).length;
    at("steps-note").textContent = [
      [...shown.changes.values()].some((changed) => changed.length)
        ? "Dotted lines: the environment changed there; the table says how."
        : "No change of the environment is on record over these commits.",
      silent ? `${silent} of ${shown.results.length} do not say which torch they ran with.` : "",
    ].join(" ");
  }

  /* Links to asv's graphs of the cell. */
  function graphs({ machine, models, model, tokens }) {
    const place = machine.about.gpu ? models.find(({ name }) => name === model).benchmark : "bench_cpu.Cpu";
    const has = (provider) => machine.results.some(({ times }) => times[provider] && times[provider][model]);
    const parts = new URLSearchParams({ "p-model": `'${model}'`, "p-num_tokens": tokens });
    return data.providers
      .filter(has)
      .flatMap((provider, index) => [
        index ? ", " : "",
        Tables.make("a", { href: `index.html#${place}.time_${provider}?${parts}`, textContent: provider }),
      ]);
  }

  function gridNote(numbers, { metric, result, base }) {
    const who = base
      ? `${Numbers.short(result.commit)} against ${Numbers.short(base.commit)}: ${metric.title}`
      : metric.title;
    if (!numbers.length) {
      return `${who}: no such rows at ${base ? "one of the commits" : "this commit"}.`;
    }
    const write = base ? (number) => `${Numbers.three(number)}\u00d7` : (number) => metric.write(number) + metric.unit;
    const [mean, low, high] = [Numbers.geometricMean(numbers), Math.min(...numbers), Math.max(...numbers)].map(write);
    const reading = base ? "above 1 is better" : "bright is better";
    const range = `geometric mean ${mean}, from ${low} to ${high}, ${numbers.length} cells`;
    return `${who}: ${range}; ${reading}. Choose a cell for its history.`;
  }

  function missing({ machine, result, base, model }) {
    const dashed = base ? `Dashed: ${Numbers.short(base.commit)}. ` : "";
    return (
      dashed +
      [result, base]
        .filter(Boolean)
        .map((one) => {
          const absent = data.providers.filter(
            (provider) =>
              !machine.tokens.some((_, index) => Array.isArray(Numbers.cell(one, "times", provider, model, index))),
          );
          return absent.length ? `${Numbers.short(one.commit)} has no times of ${absent.join(", ")}.` : "";
        })
        .join(" ")
        .trim()
    );
  }

  /* What the address asks for; of what is not there, something else is shown, and that is said. */
  function readAddress() {
    const lost = Selection.read();
    at("problem").hidden = !lost.length;
    at("problem").textContent = `The address asks for ${lost.join(", ")}, of which there are no results here.`;
    Selection.write();
  }

  function change(parts) {
    Object.assign(state, parts);
    Selection.write();
    readAddress(); // of another machine, a choice may not be there
    const machine = machineOf();
    const result = resultOf(machine, state.commit);
    const metric = Numbers.metrics.find(({ id }) => id === state.metric);
    if (parts.machine && !has(metric, [result], { machine, models: modelsOf(machine) })) {
      state.metric = usualMetric(machine, result);
      Selection.write();
    }
    draw();
  }

  function step(by) {
    const { results } = machineOf();
    const place = results.findIndex(({ commit }) => commit === state.commit) + by;
    if (results[place]) {
      change({ commit: results[place].commit });
    }
  }

  function start() {
    if (!data.machines.length) {
      at("problem").hidden = false;
      at("problem").textContent = "No results of a published commit are stored yet.";
      return;
    }
    for (const key of ["machine", "commit", "base", "metric", "model"]) {
      at(key).addEventListener("change", (event) => change({ [key]: event.target.value }));
    }
    at("tokens").addEventListener("change", (event) => change({ tokens: Number(event.target.value) }));
    at("scale-of-steps").addEventListener("change", (event) => change({ scale: event.target.value }));
    at("moved").addEventListener("change", (event) => change({ moved: event.target.checked }));
    at("history").addEventListener("input", (event) =>
      change({ commit: machineOf().results[event.target.value].commit }),
    );
    at("earlier").addEventListener("click", () => step(-1));
    at("later").addEventListener("click", () => step(1));
    at("selection").addEventListener("submit", (event) => event.preventDefault());
    addEventListener("hashchange", () => {
      readAddress();
      draw();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    readAddress();
    draw();
    addEventListener("DOMContentLoaded", draw); // plotly.js has come
  }

  start();
})();
