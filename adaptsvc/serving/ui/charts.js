// Charts on uPlot; they know nothing of what they show.

const uPlot = /** @type {any} */ (globalThis).uPlot;
/** @type {WeakMap<Element, {plot: any, dark: boolean}>} */
const drawn = new WeakMap();
const night = matchMedia("(prefers-color-scheme: dark)");
const resized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const plot = drawn.get(target)?.plot;
    const width = Math.floor(contentRect.width);
    if (plot && width > 0 && width !== plot.width) plot.setSize({ width, height: plot.height });
  }
});

/** The value of a colour of the style sheet. @param {string} name */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--ui-${name}`).trim();

/** Draw anew what a change of the theme would leave in the old colours. @param {() => void} then */
export function onThemeChange(then) {
  night.addEventListener("change", then);
}

/**
 * Draw a chart in a host, or give the one that is there its new data.
 * @param {HTMLElement} host
 * @param {() => any} options of uPlot, without the width
 * @param {any[]} data columns, the first is x
 */
export function chart(host, options, data) {
  const known = drawn.get(host);
  if (known && known.dark === night.matches) {
    known.plot.setData(data);
    return;
  }
  known?.plot.destroy();
  const width = Math.max(120, Math.floor(host.clientWidth));
  const plot = new uPlot({ legend: { show: false }, cursor: { show: false }, width, ...options() }, data, host);
  drawn.set(host, { plot, dark: night.matches });
  resized.observe(host);
}

/** An axis in the page's colours. @param {object} more */
export function axis(more) {
  const [stroke, line] = [colour("muted"), colour("line")];
  const font = "12px system-ui, sans-serif";
  return { stroke, font, grid: { stroke: line, width: 1 }, ticks: { show: false }, ...more };
}

/**
 * Draw on the chart in its own units.
 * @param {any} plot
 * @param {(pen: CanvasRenderingContext2D, x: (v: number) => number, y: (v: number) => number, ratio: number) => void} work
 */
export function withPen(plot, work) {
  const pen = plot.ctx;
  const { left, top, width, height } = plot.bbox;
  pen.save();
  pen.beginPath();
  pen.rect(left, top, width, height);
  pen.clip();
  pen.lineWidth = devicePixelRatio;
  const x = (/** @type {number} */ v) => plot.valToPos(v, "x", true);
  const y = (/** @type {number} */ v) => plot.valToPos(v, "y", true);
  work(pen, x, y, devicePixelRatio);
  pen.restore();
}

/** A straight line from one place to another. @param {CanvasRenderingContext2D} pen @param {number[]} ends x, y, x, y */
export function stroke(pen, ends) {
  pen.beginPath();
  pen.moveTo(ends[0], ends[1]);
  pen.lineTo(ends[2], ends[3]);
  pen.stroke();
}
