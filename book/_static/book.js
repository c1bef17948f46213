// What pages opened from a disk cannot do: a browser lets no script read another file. Search then shows titles without excerpts.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// Turns each chart's specification into a chart that answers the pointer, when it comes near the screen.
// Vega is one file of this site (chapter 16), loaded with the first chart; until then, and without scripts, the still drawing stands.
(() => {
  const here = document.currentScript.src;
  let vega;

  function load() {
    vega ??= new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = new URL("vega.js", here).href;
      script.onload = done;
      script.onerror = failed;
      document.head.append(script);
    });
    return vega;
  }

  // The nearest point answers through an invisible cell around it, whose datum is the point and not its row.
  // Vega-Lite forgets that for texts.
  function reachRow(specification) {
    return JSON.parse(JSON.stringify(specification), (name, value) => {
      const tooltip = value?.encode?.update?.isVoronoi && value.encode.update.tooltip;
      if (tooltip) tooltip.signal = tooltip.signal.replace(/datum(\.datum)?\[/g, "datum.datum[");
      return value;
    });
  }

  async function draw(panel) {
    await load();
    const chart = document.createElement("div");
    panel.append(chart);
    panel.classList.add("alive");
    const specification = JSON.parse(panel.querySelector("script[type='application/json']").textContent);
    const { view } = await window.vegaEmbed(chart, specification, { renderer: "svg", actions: false, patch: reachRow });
    panel.dispatchEvent(new CustomEvent("drawn", { detail: view, bubbles: true }));
  }

  document.addEventListener("DOMContentLoaded", () => {
    const watcher = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        watcher.unobserve(target);
        draw(target);
      }
    }, { rootMargin: "300px" });
    document.querySelectorAll(".sft-panel").forEach((panel) => watcher.observe(panel));
  });
})();
