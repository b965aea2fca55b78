// Draws the charts whose data stands in the page, each in the element that names it; every text is set as text.
(() => {
  "use strict";
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const look = getComputedStyle(document.documentElement);
  const color = (name) => look.getPropertyValue(name).trim();
  const number = (value) => (value == null ? "–" : String(+value.toPrecision(4)));
  const drawn = [];

  function element(parent, tag, kind, text) {
    const made = parent.appendChild(document.createElement(tag));
    made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // The legend says the values where the pointer is, each line's last one where it is nowhere.
  function legend(holder, chart) {
    const line = element(holder, "p", "legend");
    const where = element(line, "span", "step");
    const entries = chart.series.map((series) => {
      const entry = element(line, "span", "key " + series.color + (series.dashed ? " hollow" : ""));
      element(entry, "i", "");
      element(entry, "span", "", series.name);
      element(entry, "b", "");
      return entry;
    });
    const lasts = chart.series.map((series) => series.values.findLastIndex((value) => value != null));
    const endTogether = lasts.every((last) => last === lasts[0]);
    const tell = (place) => {
      const at = place == null ? lasts[0] : place;
      where.textContent = place == null && !endTogether ? "last step of each" : chart.x_name + " " + chart.x[at];
      entries.forEach((entry, n) => {
        entry.lastChild.textContent = number(chart.series[n].values[place == null ? lasts[n] : place]);
      });
    };
    const mark = (near) => entries.forEach((entry, n) => entry.classList.toggle("near", n === near));
    return { tell, mark };
  }

  function axis(size) {
    return {
      stroke: color("--soft"),
      font: "11px system-ui, sans-serif",
      size: size,
      grid: { stroke: color("--rule"), width: 1 },
      ticks: { show: false },
    };
  }

  function draw(holder) {
    const chart = charts[holder.dataset.chart];
    holder.textContent = "";
    const canvas = element(holder, "div", "canvas");
    const { tell, mark } = legend(holder, chart);
    const series = chart.series.map((one) => ({
      stroke: color("--" + one.color),
      width: 1.8,
      dash: one.dashed ? [5, 4] : [],
      spanGaps: true,
      points: { show: chart.x.length < 2 },
    }));
    const options = {
      width: canvas.clientWidth,
      height: 170,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 }, focus: { prox: 12 } },
      focus: { alpha: 0.35 },
      scales: { x: { time: false } },
      axes: [Object.assign(axis(28), { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1e5, 1e6] }), axis(48)],
      series: [{}, ...series],
      hooks: { setCursor: [(plot) => tell(plot.cursor.idx)], setSeries: [(plot, near) => mark(near - 1)] }, // x is 0
    };
    const plot = new uPlot(options, [chart.x, ...chart.series.map((one) => one.values)], canvas);
    tell(null);
    return { plot, canvas };
  }

  function drawAll() {
    drawn.splice(0).forEach((one) => one.plot.destroy());
    document.querySelectorAll("[data-chart]").forEach((holder) => drawn.push(draw(holder)));
  }

  function fit() {
    for (const one of drawn) {
      if (one.plot.width !== one.canvas.clientWidth) one.plot.setSize({ width: one.canvas.clientWidth, height: 170 });
    }
  }

  function copy(button) {
    const text = document.getElementById(button.dataset.copy);
    getSelection().selectAllChildren(text);
    const done = () => {
      button.textContent = "copied";
    };
    if (navigator.clipboard) navigator.clipboard.writeText(text.textContent).then(done, () => document.execCommand("copy") && done());
    else if (document.execCommand("copy")) done();
  }

  drawAll();
  addEventListener("resize", fit);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  document.querySelectorAll("[data-copy]").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  });
})();
