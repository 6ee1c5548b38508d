"use strict";

/* Corrections of asv's own pages. This script runs after asv_ui.js and before the scripts of the pages. */
$(document).ready(() => {
  const withNumbers = window.MACHINES_WITH_NUMBERS;

  // Names of rows hold token counts: 128 comes before 1024, not after.
  $.fn.stupidtable.default_sort_fns.string = (a, b) => a.localeCompare(b, undefined, { numeric: true });

  // Rows that are n/a on the machine come last, however the list is sorted.
  $(document).on("aftertablesort", "#summarylist-body table", (event) => {
    const body = $(event.currentTarget).children("tbody");
    body.append(body.children("tr").filter((_, row) => $(row).children("td.value").is(":empty")));
  });

  // Token counts double: an even axis would put all but the last into one corner.
  const { plot } = $;
  $.plot = Object.assign((place, series, options, ...rest) => {
    if (options.xaxis && options.xaxis.axisLabel === "num_tokens") {
      options.xaxis.transform = Math.log2;
      options.xaxis.inverseTransform = (power) => 2 ** power;
      options.xaxis.ticks = [...new Set(series.flatMap(({ data }) => data.map(([count]) => count)))].map((count) => [
        count,
        String(count),
      ]);
    }
    return plot(place, series, options, ...rest);
  }, plot);

  /* Machines with most benchmarks first: the list opens with the first, and n/a rows say nothing. */
  function order(index) {
    const rank = (name) => -Object.values(withNumbers).filter((machines) => machines.includes(name)).length;
    const byRank = (a, b) => rank(a) - rank(b) || a.localeCompare(b);
    index.params.machine.sort(byRank);
    index.graph_param_list.sort((a, b) => byRank(a.machine, b.machine));
  }

  const register = $.asv.register_page;
  $.asv.register_page = (name, show) =>
    register(name, (params) => {
      const index = $.asv.main_json;
      order(index);
      if (name === "graphdisplay" && !params.machine) {
        const machines = withNumbers[params.benchmark] || [];
        if (machines.length && machines.length < index.params.machine.length) {
          params.machine = machines.slice();
        }
      }
      if (name === "summarylist" && !params.machine && index.graph_param_list.length) {
        for (const [key, value] of Object.entries(index.graph_param_list[0])) {
          params[key] = params[key] || [value];
        }
      }
      show(params);
    });
});
