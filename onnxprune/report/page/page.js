/** A table or a paragraph, as the terminal shows them. */
function section(part) {
  if (!part.columns.length) return element("p", {}, part.text.split("\n").map(printable).join("\n"));
  const cell = (tag, text, i, scope) => element(tag, { class: part.numbers[i] ? "number" : null, scope }, printable(text));
  const head = element("tr", {}, ...part.columns.map((title, i) => cell("th", title, i, "col")));
  const rows = part.rows.map((cells) => element("tr", {}, ...cells.map((text, i) => (i ? cell("td", text, i) : cell("th", text, i, "row")))));
  return element("div", { class: "scroll" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function chapter(title, ...children) {
  return element("section", { "aria-label": title }, element("h2", {}, title), ...children);
}

function build(page) {
  document.title = `${printable(page.title)} – onnxprune`;
  const shown = [element("h1", {}, printable(page.title)), ...page.sections.map(section)];
  if (page.layers.length) shown.push(chapter("Layers in execution order", ...strip(page)));
  if (page.other_times) shown.push(chapter("Time of layers, before and after", ...times(page)));
  if (page.zeros.length) shown.push(chapter("Weights with zeros", ...zeros(page)));
  if (page.curves.length) {
    const about = `By the share of each group's channels that is removed; of ${printable(page.curves_of)}. Filled points are measured, hollow ones predicted.`;
    shown.push(chapter("Damage curves", element("p", { class: "quiet" }, about), curves(page)));
  }
  if (page.choice) shown.push(chapter("Try other shares", ...choice(page)));
  if (page.variants.length) shown.push(chapter("Variants", ...front(page)));
  const versions = Object.entries(page.versions).map(([name, version]) => `${name} ${version}`).join(", ");
  shown.push(chapter("To repeat this", element("pre", {}, printable(page.command)), element("p", { class: "quiet" }, printable(versions))));
  document.getElementById("main").append(...shown);
}

build(JSON.parse(document.getElementById("data").textContent));
