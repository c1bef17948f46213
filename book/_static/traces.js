// The trace browser (chapters 14g and 32). The page holds the texts; the choice is in its address: #run=R25&benchmark=order&item=3
(() => {
  const root = document.querySelector(".sft-traces");
  if (!root) return;
  const data = JSON.parse(root.querySelector("script").textContent);
  const comparisons = { before: "the column before", base: "the base", nothing: "nothing" };

  function make(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  // The words of a text with their white space, each with whether the other text has it too, in the same order.
  function comparedWords(text, other) {
    const mine = text.match(/\s*\S+/g) ?? [], theirs = (other.match(/\S+/g) ?? []);
    const common = Array.from({ length: mine.length + 1 }, () => new Array(theirs.length + 1).fill(0));
    for (let i = mine.length - 1; i >= 0; i--)
      for (let j = theirs.length - 1; j >= 0; j--)
        common[i][j] = mine[i].trim() === theirs[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    const words = [];
    for (let i = 0, j = 0; i < mine.length;) {
      if (j < theirs.length && mine[i].trim() === theirs[j]) words.push([mine[i++], true]), j++;
      else if (j < theirs.length && common[i][j + 1] > common[i + 1][j]) j++;
      else words.push([mine[i++], false]);
    }
    return words;
  }

  // Neighbouring words of one kind in one element; the thinking apart from the answer.
  function marked(text, other) {
    const thinking = make("div", { className: "sft-thinking" }), answer = make("div");
    const words = other === null ? [[text, true]] : comparedWords(text, other);
    let place = text.startsWith("<think>") ? thinking : answer, kind, run;
    for (const [word, shared] of words.flatMap(([word, shared]) => word.split(/(?<=<\/think>)/).map((part) => [part, shared]))) {
      const space = word.match(/^\s*/)[0];
      if (shared !== kind || !run) place.append(place.childNodes.length ? space : "", run = make(shared ? "span" : "mark"));
      run.append(run.childNodes.length ? word : word.slice(space.length));
      kind = shared;
      if (word.endsWith("</think>")) [place, run] = [answer, null];
    }
    return [thinking, answer].filter((part) => part.childNodes.length);
  }

  const right = (score) => score === 1 ? "right" : score === 0 ? "wrong" : score === null ? "not scored" : `score ${score.toFixed(2)}`;
  const look = (score) => score === 1 ? "right" : score === 0 ? "wrong" : "partly";

  function column([step, score, tokens, seen, cut, text], moment, other, longest) {
    const length = make("span", { className: "sft-length", ariaHidden: "true" });
    length.style.width = `${100 * tokens / longest}%`;
    return make("section", { className: `sft-moment ${look(score)}`, ariaLabel: `step ${step}, ${moment}` },
      make("h3", {}, `step ${step}`, make("small", {}, moment)),
      make("p", { className: "sft-score" }, make("strong", {}, right(score)), ` ${tokens} tokens${cut ? ", cut off" : ""}`, length),
      make("p", { className: "sft-seen" }, "The scorer saw: ", make("code", {}, seen)),
      make("div", { className: "sft-text", lang: "en" }, ...marked(text, other)));
  }

  function squares(steps, scores, shown) {
    return make("ol", { className: "sft-squares", ariaLabel: "score at every checkpoint" }, ...steps.map((step, i) =>
      make("li", { className: `${look(scores[i])} ${shown.has(step) ? "shown" : ""}` }, make("span", { className: "sft-step" }, step),
        make("span", { className: "sft-word" }, right(scores[i])))));
  }

  const chosen = { run: data.opens, benchmark: data.benchmarks[0].name, item: "1", marks: "before" };
  const place = () => data.benchmarks.findIndex((benchmark) => benchmark.name === chosen.benchmark);
  const choices = {
    run: () => data.runs.map((run) => [run.id, run.name]),
    benchmark: () => data.benchmarks.map((benchmark) => [benchmark.name, benchmark.title]),
    item: () => data.benchmarks[place()].questions.map(([question], i) => [`${i + 1}`, `${i + 1}. ${question}`]),
    marks: () => Object.entries(comparisons),
  };
  const titles = { run: "Run", benchmark: "Benchmark", item: "Item", marks: "Mark what differs from" };
  const fields = Object.fromEntries(Object.keys(choices).map((name) => [name, make("select", {
    name, id: `traces-${name}`, onchange: (event) => { chosen[name] = event.target.value; follow(); } })]));
  const before = make("button", { type: "button", onclick: () => move(-1) }, "Previous item");
  const after = make("button", { type: "button", onclick: () => move(1) }, "Next item");
  const form = make("form", { className: "sft-controls", onsubmit: () => false },
    ...Object.keys(fields).map((name) => make("div", { className: "sft-field" },
      make("label", { htmlFor: fields[name].id }, titles[name]), fields[name])),
    make("div", { className: "sft-buttons" }, before, after));
  const said = make("p", { className: "sft-said", role: "status" });
  const shown = make("div");
  root.append(make("div", { className: "sft-live" }, form, said, shown));

  function move(by) {
    chosen.item = `${Number(chosen.item) + by}`;
    follow();
  }

  function draw() {
    for (const [name, field] of Object.entries(fields)) {
      field.replaceChildren(...choices[name]().map(([value, text]) => make("option", { value }, text)));
      field.value = chosen[name];
    }
    const run = data.runs.find((run) => run.id === chosen.run), part = run.benchmarks[place()], number = Number(chosen.item);
    const [question, answer] = data.benchmarks[place()].questions[number - 1], item = part.items[number - 1];
    const longest = Math.max(...item.responses.map(([, , tokens]) => tokens));
    const other = (i) => i === 0 || chosen.marks === "nothing" ? null : item.responses[chosen.marks === "base" ? 0 : i - 1][5];
    before.disabled = number === 1;
    after.disabled = number === part.items.length;
    said.textContent = item.responses.map(([step, score], i) => `${part.moments[i]} (step ${step}): ${right(score)}`).join(" · ");
    shown.replaceChildren(
      make("dl", { className: "sft-question" }, make("dt", {}, "Question"), make("dd", {}, question),
        make("dt", {}, "Right answer"), make("dd", {}, answer), make("dt", {}, "Every checkpoint"),
        make("dd", {}, squares(run.steps, item.scores, new Set(item.responses.map(([step]) => step))))),
      make("div", { className: "sft-moments" }, ...item.responses.map((response, i) => column(response, part.moments[i], other(i), longest))));
  }

  // A value that the page does not have is passed over.
  function read() {
    const address = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(choices))
      if (choices[name]().some(([value]) => value === address.get(name))) chosen[name] = address.get(name);
    if (!choices.item().some(([value]) => value === chosen.item)) chosen.item = "1";
    draw();
  }

  function follow() {
    const focused = document.activeElement;
    history.replaceState(null, "", `#${new URLSearchParams(chosen)}`);
    read();
    if (focused?.disabled) (focused === before ? after : before).focus();
  }

  window.addEventListener("hashchange", read);
  root.classList.add("alive");
  read();
})();
