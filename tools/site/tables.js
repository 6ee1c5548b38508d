"use strict";

/* The grid of models and tokens, the tables of numbers, and the environment. */
const Tables = (() => {
  // Cividis: even in lightness, and the same to most colour-blind eyes.
  const CIVIDIS = [
    "#00224e",
    "#123570",
    "#3b496c",
    "#575d6d",
    "#707173",
    "#8a8678",
    "#a59c74",
    "#c3b369",
    "#e1cc55",
    "#fee838",
  ];

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, found] of Object.entries(properties)) {
      if (name in element) {
        element[name] = found;
      } else {
        element.setAttribute(name, found);
      }
    }
    element.append(...children);
    return element;
  }

  const channels = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));

  function blend(stops, place) {
    const at = Math.min(Math.max(place, 0), 1) * (stops.length - 1);
    const [from, to] = [stops[Math.floor(at)], stops[Math.ceil(at)]].map(channels);
    return from.map((channel, index) => Math.round(channel + (to[index] - channel) * (at - Math.floor(at))));
  }

  /* Black or white, whichever is read more easily on the colour. */
  function paint(element, [red, green, blue]) {
    const [r, g, b] = [red, green, blue].map((channel) => {
      const part = channel / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    element.style.background = `rgb(${red}, ${green}, ${blue})`;
    element.style.color = 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
  }

  /* One colour scale for all commits of a machine, so that the colours of two commits can be compared. */
  function scaleOf(metric, machine, models) {
    const numbers = machine.results
      .flatMap((result) =>
        models.flatMap(({ name }) => machine.tokens.map((_, index) => metric.value(result, name, index))),
      )
      .filter(Numbers.isNumber);
    if (!numbers.length) {
      return null;
    }
    const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
    const place = (number) => Math.log(number / low) / (Math.log(high / low) || 1);
    // Bright is good: a short time stands where a high speedup does.
    const stops = metric.isSmallerBetter ? CIVIDIS.slice().reverse() : CIVIDIS;
    return { low, high, stops, colour: (number) => blend(stops, place(number)) };
  }

  /* Worse, alike, better; even to both sides. */
  function scaleOfRatios(numbers) {
    if (!numbers.length) {
      return null;
    }
    const reach = Math.max(Math.log(1.1), ...numbers.map((number) => Math.abs(Math.log(number))));
    const stops = [Charts.colour("worse"), Charts.colour("alike"), Charts.colour("better")];
    return {
      low: Math.exp(-reach),
      high: Math.exp(reach),
      stops,
      colour: (number) => blend(stops, 0.5 + Math.log(number) / (2 * reach)),
    };
  }

  function grid(element, legend, { machine, result, base, metric, models, model, tokens }, onCell) {
    const found = models.map(({ name }) =>
      machine.tokens.map((_, index) =>
        base ? Numbers.better(metric, result, base, name, index) : metric.value(result, name, index),
      ),
    );
    const numbers = found.flat().filter(Numbers.isNumber);
    const scale = base ? scaleOfRatios(numbers) : scaleOf(metric, machine, models);
    const write = base ? Numbers.three : metric.write;
    const unit = base ? "\u00d7" : metric.unit;
    const chosen = { row: models.findIndex(({ name }) => name === model), column: machine.tokens.indexOf(tokens) };

    const head = make(
      "tr",
      {},
      make("th", { scope: "col", textContent: "tokens" }),
      ...machine.tokens.map((count) => make("th", { scope: "col", textContent: String(count) })),
    );
    const rows = models.map(({ name, kind }, row) => {
      const buttons = machine.tokens.map((count, column) => {
        const number = found[row][column];
        const isChosen = row === chosen.row && column === chosen.column;
        const text = Numbers.isNumber(number) ? write(number) : number;
        const button = make("button", {
          type: "button",
          textContent: text,
          tabIndex: isChosen ? 0 : -1,
          title: `${name}, ${count} tokens`,
          "aria-pressed": String(isChosen),
          "aria-label": `${name}, ${count} tokens: ${text}${Numbers.isNumber(number) ? unit : ""}`,
          onclick: () => onCell(name, count),
          onkeydown: (event) => move(event, element, row, column),
        });
        button.dataset.value = number;
        if (Numbers.isNumber(number)) {
          paint(button, scale.colour(number));
        } else {
          button.className = "none";
        }
        return make("td", {}, button);
      });
      return make("tr", {}, make("th", { scope: "row" }, name, make("small", { textContent: kind })), ...buttons);
    });
    const hadFocus = element.contains(document.activeElement);
    element.replaceChildren(
      make("caption", { className: "away", textContent: metric.title }),
      make("colgroup", {}, make("col", { className: "models" })),
      make("thead", {}, head),
      make("tbody", {}, ...rows),
    );
    if (hadFocus) {
      element.querySelector('[aria-pressed="true"]')?.focus();
    }
    if (!element.querySelector('[tabindex="0"]')) {
      element.querySelector("button")?.setAttribute("tabindex", "0");
    }
    showScale(legend, scale, write, base);
    return numbers;
  }

  /* The grid is one stop of the tab key; the arrow keys move inside it. */
  function move(event, element, row, column) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const next = step && element.tBodies[0].rows[row + step[0]]?.cells[column + step[1] + 1]?.querySelector("button");
    if (next) {
      event.preventDefault();
      next.focus();
    }
  }

  function showScale(legend, scale, write, base) {
    legend.hidden = !scale;
    if (!scale) {
      return;
    }
    const bar = make("span", { className: "bar" });
    const ends = scale.stops.map((stop, index) => `${stop} ${(100 * index) / (scale.stops.length - 1)}%`);
    bar.style.background = `linear-gradient(90deg, ${ends.join(", ")})`;
    const [left, right] = [scale.low, scale.high].map(write);
    legend.replaceChildren(base ? `worse ${left}` : left, bar, base ? `${right} better` : right);
  }

  function numbers(element, { machine, result, base, model }) {
    const commits = base ? [result, base] : [result];
    const columns = Numbers.data.providers
      .flatMap((provider) => commits.map((one) => ({ provider, one })))
      .filter(({ provider, one }) => one.times[provider]);
    const head = make(
      "tr",
      {},
      make("th", { scope: "col", textContent: "tokens" }),
      ...columns.map(({ provider, one }) =>
        make("th", { scope: "col", textContent: base ? `${provider}, ${Numbers.short(one.commit)}` : provider }),
      ),
    );
    const rows = machine.tokens.map((count, index) =>
      make(
        "tr",
        {},
        make("th", { scope: "row", textContent: String(count) }),
        ...columns.map(({ provider, one }) => {
          const found = Numbers.cell(one, "times", provider, model, index);
          const cell = make("td", { className: "time", textContent: Numbers.timeWithInterval(found) });
          cell.dataset.value = Array.isArray(found) ? found[0] : found;
          return cell;
        }),
      ),
    );
    element.replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  }

  /* A row for each commit, the latest first; `previous` is the last number of that provider before it. */
  function steps(element, { results, result, model, index, changes, isMovedOnly }, onCommit) {
    const providers = Numbers.data.providers.filter((name) =>
      results.some((one) => Array.isArray(Numbers.cell(one, "times", name, model, index))),
    );
    const previous = {};
    const rows = results.map((one) => {
      const commit = Numbers.commits.get(one.commit);
      let isMoved = changes.get(one.commit).length > 0;
      const cells = providers.map((provider) => {
        const found = Numbers.value(one, "times", provider, model, index);
        const cell = make("td", {
          className: "time",
          textContent: Numbers.isNumber(found) ? Numbers.time(found) : found,
        });
        cell.dataset.value = found;
        if (!Numbers.isNumber(found)) {
          return cell;
        }
        if (previous[provider]) {
          const change = found / previous[provider] - 1;
          const isStep = Math.abs(change) >= 0.01;
          const word = isStep ? (change > 0 ? "slower" : "faster") : "alike";
          cell.append(
            make("span", {
              className: `change ${word}`,
              textContent: `${Numbers.percent(change)} ${isStep ? word : ""}`,
            }),
          );
          isMoved = isMoved || isStep;
        }
        previous[provider] = found;
        return cell;
      });
      const choose = make("button", {
        type: "button",
        textContent: Numbers.short(one.commit),
        onclick: () => onCommit(one.commit),
      });
      const environment = changes
        .get(one.commit)
        .map(({ text }) => text)
        .join(", ");
      const row = make(
        "tr",
        {},
        make("td", { className: "text" }, choose, make("small", { textContent: Numbers.date(commit.date) })),
        ...cells,
        make("td", { className: "text what", textContent: commit.subject }),
        make("td", { className: "text", textContent: environment }),
      );
      if (one === result) {
        row.setAttribute("aria-current", "true");
      }
      row.hidden = isMovedOnly && !isMoved;
      return row;
    });
    const heads = ["commit", ...providers, "what", "environment"].map((name) =>
      make("th", { scope: "col", className: providers.includes(name) ? "" : "text", textContent: name }),
    );
    const hadFocus = element.contains(document.activeElement);
    element.replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows.reverse()));
    if (hadFocus) {
      element.querySelector("[aria-current] button")?.focus();
    }
  }

  /* What is known of the commit itself; the rest from the machine's latest environment.txt. */
  function environment(element, note, { machine, result, base }) {
    const latest = machine.environment ? machine.environment.versions : {};
    const borrowed = Numbers.VERSIONS.filter((name) => !result.environment[name] && latest[name]);
    const entries = Numbers.VERSIONS.map((name) => {
      const now = result.environment[name] || latest[name] || "";
      const before = base && base.environment[name];
      return [name, before && before !== now ? `${now} (${Numbers.short(base.commit)}: ${before})` : now];
    });
    entries.push([
      "measured",
      result.measured ? `${new Date(result.measured).toISOString().slice(0, 16).replace("T", " ")} UTC` : "",
    ]);
    for (const name of ["cpu", "num_cpu", "ram"]) {
      entries.push([name, machine.about[name] || ""]);
    }
    element.replaceChildren(
      ...entries
        .filter(([, text]) => text)
        .map(([name, text]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: text }))),
    );
    note.textContent = "";
    if (borrowed.length) {
      const when = Numbers.short(machine.environment.commit);
      note.textContent = `${borrowed.join(", ")}: as the machine had them at ${when}; this commit's results do not say.`;
    }
  }

  return { make, grid, numbers, steps, environment };
})();
