// The what-if figure (chapters 14h and 33): its controls set the parameters of the chart. The choice is in the page's address.
(() => {
  const form = document.querySelector(".sft-controls[data-figure]");
  if (!form) return;
  const said = form.nextElementSibling;
  let chart;

  function begin() {
    const figure = document.getElementById(form.dataset.figure);
    const specification = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
    const rows = specification.datasets.rows;
    const parameters = specification.params.filter(({ name }) => name.startsWith("chosen_"));
    const chosen = Object.fromEntries(parameters.map(({ name, value }) => [name.replace("chosen_", ""), value]));
    const values = (name, keep) => [...new Set(rows.filter(keep).map((row) => row[name]))].sort((a, b) => a - b);
    const rate = (value) => value.toExponential(1).replace("-", "\u2212");
    const text = { step: String, rate };

    // Of the chosen run: its steps and rates. A value that it does not have gives way to the nearest.
    function settle() {
      const lists = { rate: values("rate", (row) => row.run === chosen.run), step: values("step", (row) => row.run === chosen.run) };
      for (const [name, list] of Object.entries(lists)) {
        chosen[name] = list.reduce((best, value) => Math.abs(value - chosen[name]) < Math.abs(best - chosen[name]) ? value : best);
        const field = form.elements[name];
        [field.max, field.disabled] = [list.length - 1, list.length < 2];
        field.value = list.indexOf(chosen[name]);
        const others = list.length < 2 ? " (the only one)" : "";
        field.ariaValueText = form.querySelector(`[data-value=${name}]`).textContent = text[name](chosen[name]) + others;
      }
      return lists;
    }

    function draw() {
      settle();
      for (const name of ["run", "benchmark"]) form.elements[name].value = chosen[name];
      const row = rows.find((row) => Object.entries(chosen).every(([name, value]) => row[name] === value));
      const other = form.elements.benchmark.selectedOptions[0].textContent;
      const inside = specification.layer.map((layer) => layer.encoding.x?.title).find(Boolean).split(":")[0];
      said.textContent = row.step === 0 ? `${row.run} at its base: the origin.`
        : `${row.run} at step ${row.step}, learning rate ${rate(row.rate)}: ${inside} ${row.x_text} points, ${other} ${row.y_text} points.`;
      for (const [name, value] of Object.entries(chosen)) chart?.signal(`chosen_${name}`, value);
      chart?.run();
    }

    function read() {
      const address = new URLSearchParams(location.hash.slice(1));
      const known = { run: String, benchmark: String, step: Number, rate: Number };
      for (const [name, kind] of Object.entries(known)) {
        const value = address.has(name) ? kind(address.get(name)) : undefined;
        if (rows.some((row) => row[name] === value)) chosen[name] = value;
      }
      draw();
    }

    form.addEventListener("input", ({ target }) => {
      chosen[target.name] = target.type === "range" ? settleOn(target.name, Number(target.value)) : target.value;
      draw();
      history.replaceState(null, "", `#${new URLSearchParams(chosen)}`);
    });
    const settleOn = (name, place) => values(name, (row) => row.run === chosen.run)[place];
    form.addEventListener("submit", (event) => event.preventDefault());
    figure.addEventListener("drawn", (event) => { chart = event.detail; draw(); });
    window.addEventListener("hashchange", read);
    form.hidden = false;
    read();
  }

  document.addEventListener("DOMContentLoaded", begin);
})();
