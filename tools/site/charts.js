"use strict";

/* The two charts, drawn by plotly.js. */
const Charts = (() => {
  // Colours that colour-blind people tell apart (Okabe and Ito) stand in speedup.css; a mark each for print.
  const MARKS = { native: "square", triton: "circle", flashinfer: "triangle-up" };
  const MICROSECONDS = 1e6;
  const CONFIG = {
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    displayModeBar: matchMedia("(pointer: fine)").matches ? "hover" : false,
  };

  function colour(name) {
    const style = getComputedStyle(document.documentElement);
    return style.getPropertyValue(`--${name}`).trim() || style.getPropertyValue("--other").trim();
  }

  /* Two digits a decade where there are few decades, else one. */
  function logTicks(traces) {
    const found = traces.flatMap(({ y }) => y);
    const [least, most] = [Math.min(...found), Math.max(...found)];
    if (most / least > 300) {
      return { dtick: 1 };
    }
    // Whole numbers: plotly would write the 2 and the 5 of a decade without their size.
    const tickvals = [];
    for (let decade = Math.floor(Math.log10(least)); decade <= Math.ceil(Math.log10(most)); decade += 1) {
      tickvals.push(...[1, 2, 5].map((digit) => Number(`${digit}e${decade}`)));
    }
    return { tickvals, ticktext: tickvals.map(String) };
  }

  function layout(horizontal, vertical, shapes = [], annotations = []) {
    const axis = {
      gridcolor: colour("line"),
      zeroline: false,
      linecolor: colour("line"),
      ticks: "outside",
      tickcolor: colour("line"),
    };
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      showlegend: true,
      font: { color: colour("ink"), family: getComputedStyle(document.body).fontFamily, size: 12 },
      margin: { l: 52, r: 10, t: 34, b: 44 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      hovermode: "x unified",
      hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
      // A finger that drags over a chart scrolls the page.
      dragmode: matchMedia("(pointer: fine)").matches ? "zoom" : false,
      xaxis: { ...axis, ...horizontal },
      yaxis: {
        ...axis,
        exponentformat: "none",
        automargin: true,
        ...vertical,
      },
      shapes,
      annotations,
    };
  }

  /* A line with marks over x, and its band; `cells` are of one provider, x is as long. */
  function series(provider, x, cells, look, unit = 1 / MICROSECONDS) {
    const paint = colour(provider);
    const points = cells.map((cell, index) => ({ cell, x: x[index] })).filter(({ cell }) => Array.isArray(cell));
    if (!points.length) {
      return [];
    }
    const banded = points.filter(({ cell }) => cell.length === 3);
    const band = {
      x: [...banded, ...banded.slice().reverse()].map((point) => point.x),
      y: [...banded.map(({ cell }) => cell[2]), ...banded.map(({ cell }) => cell[1]).reverse()].map(
        (seconds) => seconds / unit,
      ),
      fill: "toself",
      fillcolor: paint,
      opacity: 0.3,
      line: { width: 0 },
      mode: "lines",
      hoverinfo: "skip",
      showlegend: false,
      name: `${look.name}, interval`,
      legendgroup: look.group || look.name,
    };
    const line = {
      x: points.map((point) => point.x),
      y: points.map(({ cell }) => cell[0] / unit),
      text: points.map(({ cell }) => Numbers.timeWithInterval(cell)),
      hovertemplate: "%{text}",
      name: look.name,
      legendgroup: look.group || look.name,
      showlegend: !look.group,
      mode: "lines+markers",
      line: { color: paint, width: 2, dash: look.dash || "solid" },
      marker: { symbol: (MARKS[provider] || "diamond") + (look.isOpen ? "-open" : ""), size: 8, color: paint },
    };
    return [band, line];
  }

  /* The time that the bytes of a call take: a provider's time times its share of the roofline. */
  function floor(result, model, tokens) {
    const provider = Numbers.data.providers.find((name) => result.roofline[name]);
    if (!provider) {
      return [];
    }
    const points = tokens
      .map((count, index) => ({
        x: count,
        y:
          Numbers.value(result, "times", provider, model, index) /
          Numbers.value(result, "roofline", provider, model, index),
      }))
      .filter(({ y }) => Number.isFinite(y));
    return points.length
      ? [
          {
            x: points.map(({ x }) => x),
            y: points.map(({ y }) => y * MICROSECONDS),
            text: points.map(({ y }) => Numbers.time(y)),
            hovertemplate: "%{text}",
            name: "roofline",
            mode: "lines",
            line: { color: colour("quiet"), width: 1.5, dash: "dot" },
          },
        ]
      : [];
  }

  const logarithmic = (traces) => ({
    type: "log",
    ...logTicks(traces),
    title: { text: "\u00b5s", standoff: 4 },
    minor: { dtick: "D1", ticks: "outside", ticklen: 3, tickcolor: colour("line") },
  });

  function latency(element, { machine, result, base, model }) {
    const of = (one, provider) => machine.tokens.map((_, index) => Numbers.cell(one, "times", provider, model, index));
    const traces = floor(result, model, machine.tokens);
    for (const provider of Numbers.data.providers) {
      const own = series(provider, machine.tokens, of(result, provider), { name: provider });
      if (base) {
        // One entry in the legend for both lines of a provider.
        const look = { name: `${provider}, ${Numbers.short(base.commit)}`, group: own.length ? provider : "" };
        traces.push(...series(provider, machine.tokens, of(base, provider), { ...look, dash: "dash", isOpen: true }));
      }
      traces.push(...own);
    }
    const horizontal = {
      type: "log",
      title: { text: "tokens", standoff: 6 },
      tickvals: machine.tokens,
      ticktext: machine.tokens.map(String),
      hoverformat: "d",
    };
    Plotly.react(element, traces, layout(horizontal, logarithmic(traces)), CONFIG);
    element.setAttribute("role", "img");
    element.setAttribute(
      "aria-label",
      `Time of a call over tokens, ${model}, both axes logarithmic; the numbers follow`,
    );
  }

  function steps(element, { results, result, base, model, index, changes, scale }, onCommit) {
    const x = results.map(({ commit }) => Numbers.short(commit));
    const isRelative = scale === "relative";
    const traces = Numbers.data.providers.flatMap((provider) => {
      const cells = results.map((one) => Numbers.cell(one, "times", provider, model, index));
      const first = cells.find(Array.isArray);
      return series(provider, x, cells, { name: provider }, isRelative && first ? first[0] / 100 : undefined);
    });
    const vertical = isRelative ? { title: { text: "% of the first", standoff: 4 } } : logarithmic(traces);
    const upright = (place, dash, paint) => ({
      type: "line",
      xref: "x",
      yref: "paper",
      x0: place,
      x1: place,
      y0: 0,
      y1: 1,
      layer: "below",
      line: { color: paint, width: dash === "dot" ? 2 : 6, dash },
    });
    const shapes = [];
    const annotations = [];
    results.forEach((one, place) => {
      if (one === result || one === base) {
        shapes.push(upright(place, "solid", colour("mark")));
      }
      const changed = changes.get(one.commit);
      if (changed.length) {
        shapes.push(upright(place, "dot", colour("other")));
        annotations.push({
          x: place,
          y: 0,
          xref: "x",
          yref: "paper",
          yanchor: "bottom",
          xanchor: "right",
          textangle: -90,
          showarrow: false,
          text: changed.map(({ name }) => name).join(", "),
          font: { size: 11, color: colour("other") },
          hovertext: changed.map(({ text }) => text).join("<br>"),
        });
      }
    });
    const horizontal = {
      type: "category",
      categoryorder: "array",
      categoryarray: x,
      range: [-0.4, x.length - 0.6],
      tickangle: 0,
      nticks: Math.max(2, Math.floor(element.clientWidth / 90)),
    };
    Plotly.react(element, traces, layout(horizontal, vertical, shapes, annotations), CONFIG);
    element.removeAllListeners("plotly_click");
    element.on("plotly_click", (event) => onCommit(results[x.indexOf(event.points[0].x)].commit));
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", `Time of ${model} at each commit, oldest first; the numbers follow`);
  }

  return { latency, steps, colour };
})();
