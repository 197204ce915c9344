/* For the report: thumbnails, cells of the confusion matrix, filter of the mistakes. Text is inserted as text, never as HTML. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const percent = share => `${(100 * share).toFixed(1)}\u202f%`;
  const isolated = text => element("bdi", {}, text);
  const image = (number, alt) => element("img", { src: data.thumbnails[number], alt, decoding: "async" });

  for (const place of document.querySelectorAll("img[data-image]")) place.src = data.thumbnails[Number(place.dataset.image)];

  /* Cells */
  const panel = document.getElementById("cell"), step = 48;
  let open = null;
  const fill = (rows, from, list, more) => {
    for (const [path, , , sure, number] of rows.slice(from, from + step)) {
      const shown = number >= 0 ? image(number, path) : element("span", { class: "absent" }, "no image");
      list.append(element("li", { title: path }, shown, element("span", { class: "path" }, isolated(path.split("/").pop())), element("span", { class: "muted" }, percent(sure))));
    }
    more.hidden = from + step >= rows.length;
    more.textContent = `Show ${Math.min(step, rows.length - from - step)} more`;
  };
  const show = button => {
    const t = Number(button.dataset.true), p = Number(button.dataset.predicted);
    const rows = data.rows.filter(row => row[1] === t && row[2] === p).sort((a, b) => t === p ? a[3] - b[3] : b[3] - a[3]);
    const title = element("h3", { tabindex: "-1" });
    title.append(`${rows.length} image${rows.length === 1 ? "" : "s"} of `, isolated(data.classes[t]), t === p ? ", predicted correctly" : ", predicted as ", t === p ? "" : isolated(data.classes[p]));
    const order = element("p", { class: "note" }, t === p ? "Least confident first." : "Most confident first.");
    const list = element("ul", { class: "images" }), more = element("button", { class: "quiet", type: "button" });
    let from = 0;
    more.addEventListener("click", () => { from += step; fill(rows, from, list, more); });
    fill(rows, 0, list, more);
    const close = element("button", { class: "quiet", type: "button" }, "Close");
    close.addEventListener("click", () => { hide(); button.focus(); });
    panel.replaceChildren(title, order, list, element("p", { class: "actions" }, more, close));
    panel.hidden = false;
    title.focus({ preventScroll: true });
    panel.scrollIntoView({ block: "nearest" });
  };
  const hide = () => {
    panel.hidden = true;
    if (open) open.setAttribute("aria-expanded", "false");
    open = null;
  };
  for (const button of document.querySelectorAll("button.cell")) {
    button.addEventListener("click", () => {
      const same = open === button;
      if (open) hide();
      if (same) return;
      open = button;
      button.setAttribute("aria-expanded", "true");
      show(button);
    });
  }
  if (panel) panel.addEventListener("keydown", event => { if (event.key === "Escape" && open) { const back = open; hide(); back.focus(); } });

  /* Mistakes */
  const form = document.getElementById("filter");
  if (form) {
    const cards = [...document.querySelectorAll("#mistakes .mistake")], count = document.getElementById("filtered"), least = document.getElementById("least-shown");
    const update = () => {
      const words = form.text.value.toLowerCase().trim();
      let shown = 0;
      for (const card of cards) {
        const fits = (form.true.value === "" || form.true.value === card.dataset.true)
          && (form.predicted.value === "" || form.predicted.value === card.dataset.predicted)
          && Number(card.dataset.sure) >= Number(form.least.value) / 100
          && (words === "" || card.dataset.text.toLowerCase().includes(words));
        card.hidden = !fits;
        shown += fits;
      }
      least.textContent = `${form.least.value}\u202f%`;
      count.textContent = `${shown} of ${cards.length} shown`;
    };
    form.addEventListener("input", update);
    form.addEventListener("submit", event => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(update));
    const heat = document.getElementById("heat");
    if (heat) heat.addEventListener("click", () => {
      const on = heat.getAttribute("aria-pressed") !== "true";
      heat.setAttribute("aria-pressed", String(on));
      for (const map of document.querySelectorAll("img.heat")) map.hidden = !on;
      for (const seen of document.querySelectorAll(".has-heat > img.seen")) seen.hidden = on;
    });
    update();
  }
})();
