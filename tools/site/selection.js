"use strict";

/* What is chosen: the state of the page, and the address that holds all of it. */
const Selection = (() => {
  const { data } = Numbers;
  const NONE = "";
  const state = { machine: "", commit: "", base: NONE, metric: "", model: "", tokens: 0, scale: "log", moved: false };

  const machineOf = () => data.machines.find(({ name }) => name === state.machine);
  const resultOf = (machine, commit) => machine.results.find((result) => result.commit === commit);

  function modelsOf(machine) {
    const has = (name) =>
      machine.results.some((result) =>
        Object.values(result.times).some((rows) => (rows[name] || []).some(Array.isArray)),
      );
    return data.models.filter(({ name }) => has(name));
  }

  /* Take from the address what is there; returns what it asks for in vain. */
  function read() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const lost = [];
    const pick = (key, choices, usual) => {
      const wanted = asked.get(key);
      const isHash = key === "commit" || key === "base";
      const found = choices.find((choice) =>
        isHash ? wanted && choice.startsWith(wanted) : String(choice) === wanted,
      );
      if (wanted && found === undefined) {
        lost.push(`${key} ${wanted}`);
      }
      return found === undefined ? usual : found;
    };
    state.machine = pick(
      "machine",
      data.machines.map(({ name }) => name),
      data.machines[0].name,
    );
    const machine = machineOf();
    const commits = machine.results.map(({ commit }) => commit);
    state.commit = pick("commit", commits, latest(machine));
    state.base = pick("base", commits, NONE);
    state.metric = pick(
      "metric",
      Numbers.metrics.map(({ id }) => id),
      usualMetric(machine, resultOf(machine, state.commit)),
    );
    const models = modelsOf(machine).map(({ name }) => name);
    state.model = pick("model", models, models.includes(state.model) ? state.model : models[0]);
    const { tokens } = machine;
    const usual = tokens.includes(state.tokens) ? state.tokens : tokens[Math.floor(0.7 * tokens.length)];
    state.tokens = pick("tokens", tokens, usual);
    state.scale = pick("scale", ["log", "relative"], "log");
    state.moved = asked.get("moved") === "1";
    return lost;
  }

  function write() {
    const parts = new URLSearchParams({ machine: state.machine, commit: Numbers.short(state.commit) });
    if (state.base) {
      parts.set("base", Numbers.short(state.base));
    }
    for (const key of ["metric", "model", "tokens", "scale"]) {
      parts.set(key, state[key]);
    }
    if (state.moved) {
      parts.set("moved", "1");
    }
    history.replaceState(null, "", `#${parts}`);
  }

  function latest(machine) {
    const published = machine.results.filter(({ commit }) => Numbers.commits.get(commit).published);
    return (published.length ? published : machine.results).at(-1).commit;
  }

  /* Whether each of the results has a number of the metric in one and the same cell. */
  function has({ value }, results, { machine, models }) {
    return models.some(({ name }) =>
      machine.tokens.some((_, index) => results.every((result) => Numbers.isNumber(value(result, name, index)))),
    );
  }

  /* The first metric of which the commit has a number: without a GPU that is a time. */
  function usualMetric(machine, result) {
    const shown = { machine, models: modelsOf(machine) };
    return (Numbers.metrics.find((metric) => has(metric, [result], shown)) || Numbers.metrics[0]).id;
  }

  return { state, NONE, read, write, machineOf, resultOf, modelsOf, has, usualMetric };
})();
