// Draws every chart of the page. Colours are CSS variables, so a change of scheme or printing needs no redrawing.
(() => {
  // The small images of maps: one sheet, of which a tile shows a part.
  const SIDE = 64;
  const sheet = document.querySelector("img.sheet");
  const { columns = 1, rows = 1 } = sheet?.dataset ?? {};
  if (sheet) {
    const style = document.createElement("style");
    const size = `${SIDE * columns}px ${SIDE * rows}px`;
    style.textContent = `.tile { background: url(${sheet.src}) 0 0 / ${size}; width: ${SIDE}px; height: ${SIDE}px; }`;
    document.head.append(style);
  }

  // What is pointed at: its entries, and its small image where it has one.
  const cell = (text, sanitize) => `<td>${sanitize(String(text))}</td>`;
  const formatTooltip = (value, sanitize) => {
    const { tile, ...rest } = value;
    const lines = Object.entries(rest).map(([key, text]) => `<tr>${cell(key.trim(), sanitize)}${cell(text, sanitize)}</tr>`);
    const table = `<table>${lines.join("")}</table>`;
    if (tile === undefined) return table;
    const at = `-${(tile % columns) * SIDE}px -${Math.floor(tile / columns) * SIDE}px`;
    return `<span class="tile" style="background-position: ${at}"></span>${table}`;
  };
  const tooltip = { theme: "custom", formatTooltip };
  // ast: expressions are interpreted; the page's policy forbids to compile them.
  const options = { actions: false, ast: true, renderer: "svg", config: CONFIG, tooltip };
  const failed = (plot) => (error) => {
    plot.textContent = `This chart could not be drawn: ${error.message}`;
    console.error(error);
  };
  const drawn = [...document.querySelectorAll(".plot")].map((plot) => {
    const spec = JSON.parse(plot.querySelector("script").textContent);
    return vegaEmbed(plot, spec, options).catch(failed(plot));
  });
  Promise.all(drawn).then(() => document.documentElement.classList.add("drawn"));

  // The contents say where the reader is.
  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const a of links.values()) a.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-10% 0px -80% 0px" });
  for (const section of document.querySelectorAll("main section")) seen.observe(section);
})();
