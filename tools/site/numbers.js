"use strict";

/* What the cells of speedup-data.js mean, and how their numbers are written. No part of the page is touched here. */
const Numbers = (() => {
  const data = window.SPEEDUP_DATA;
  const commits = new Map(data.commits.map((commit) => [commit.hash, commit]));
  const NOT_RUN = "\u2013";
  const VERSIONS = ["gpu", "driver", "cuda", "torch", "triton", "flashinfer", "python"];

  /* [value, low, high], [value], or why there is no number. */
  function cell(result, table, provider, model, index) {
    const row = result && result[table][provider] && result[table][provider][model];
    return (row && row[index]) || NOT_RUN;
  }

  function value(result, table, provider, model, index) {
    const found = cell(result, table, provider, model, index);
    return Array.isArray(found) ? found[0] : found;
  }

  const isNumber = (found) => typeof found === "number";

  function ratio(above, below) {
    if (!isNumber(above)) {
      return above;
    }
    return isNumber(below) ? above / below : below;
  }

  /* Everything that the grid can show. A metric's value is a number, or why there is none. */
  function makeMetrics() {
    const others = data.providers.filter((name) => !["native", "triton", "flashinfer"].includes(name));
    const pairs = [
      ["triton", "native"],
      ["flashinfer", "native"],
      ["triton", "flashinfer"],
    ]
      .concat(others.map((name) => [name, "native"]))
      .filter((pair) => pair.every((name) => data.providers.includes(name)));
    const speedups = pairs.map(([fast, slow]) => ({
      id: `${fast}-over-${slow}`,
      group: "Speedup",
      label: `${fast} over ${slow}`,
      title: `Speedup of ${fast} over ${slow}`,
      write: three,
      unit: "\u00d7",
      value: (result, model, index) =>
        ratio(value(result, "times", slow, model, index), value(result, "times", fast, model, index)),
    }));
    const shares = data.providers
      .filter((name) => data.machines.some((one) => one.results.some((result) => result.roofline[name])))
      .map((name) => ({
        id: `${name}-roofline`,
        group: "Share of the roofline",
        label: `${name}, roofline`,
        title: `Share of the roofline, ${name}`,
        write: (share) => `${(100 * share).toFixed(0)}%`,
        unit: "",
        value: (result, model, index) => ratio(1, value(result, "roofline", name, model, index)),
      }));
    const times = data.providers.map((name) => ({
      id: `${name}-time`,
      group: "Time of a call",
      label: `${name}, time`,
      title: `Time of a call, ${name}`,
      write: time,
      unit: "",
      isSmallerBetter: true,
      value: (result, model, index) => value(result, "times", name, model, index),
    }));
    return [...speedups, ...shares, ...times];
  }

  /* How much better `result` is than `base`: above 1 is better, whatever the metric. */
  function better(metric, result, base, model, index) {
    const [now, before] = [metric.value(result, model, index), metric.value(base, model, index)];
    return metric.isSmallerBetter ? ratio(before, now) : ratio(now, before);
  }

  function geometricMean(numbers) {
    return Math.exp(numbers.reduce((sum, one) => sum + Math.log(one), 0) / numbers.length);
  }

  /* Three digits, as far as a clock can be believed. */
  function three(number) {
    return number.toFixed(number >= 99.95 ? 0 : number >= 9.995 ? 1 : 2);
  }

  function time(seconds) {
    const units = [
      [1, "s"],
      [1e-3, "ms"],
      [1e-6, "\u00b5s"],
    ];
    const [size, unit] = units.find(([scale]) => seconds >= 0.9995 * scale) || units[2];
    return `${three(seconds / size)}\u00a0${unit}`;
  }

  /* "7.86 us (7.84 to 7.88)"; both ends in the unit of the value. */
  function timeWithInterval(found) {
    if (!Array.isArray(found)) {
      return found;
    }
    const [middle, low, high] = found;
    return low === undefined ? time(middle) : `${time(middle)} (${time(low)} to ${time(high)})`;
  }

  function percent(change) {
    const text = Math.abs(100 * change).toFixed(Math.abs(change) < 0.0995 ? 1 : 0);
    const sign = text === "0.0" ? "\u00b1" : change < 0 ? "\u2212" : "+";
    return `${sign}${text}\u00a0%`;
  }

  const short = (hash) => hash.slice(0, 8);
  const date = (milliseconds) => new Date(milliseconds).toISOString().slice(0, 10);

  /* "torch 2.10.0 to 2.11.0" for each result after the first of which the version is known, by commit. */
  function environmentChanges(results) {
    const known = {};
    return new Map(
      results.map((result) => {
        const changes = [];
        for (const name of VERSIONS) {
          const now = result.environment[name];
          if (now && known[name] && now !== known[name]) {
            changes.push({ name, text: `${name} ${known[name]} \u2192 ${now}` });
          }
          known[name] = now || known[name];
        }
        return [result.commit, changes];
      }),
    );
  }

  return {
    data,
    commits,
    VERSIONS,
    metrics: makeMetrics(),
    cell,
    value,
    isNumber,
    better,
    geometricMean,
    three,
    time,
    timeWithInterval,
    percent,
    short,
    date,
    environmentChanges,
  };
})();
