// Opens the jobs that an address names, `#jobs=3,7`, in a dialog: what each left, from the page's own data.
(function () {
  "use strict";

  var page = JSON.parse(document.getElementById("details").textContent);
  var dialog = document.getElementById("runs"), list = dialog.querySelector(".runs"), title = document.getElementById("runs-title");

  function element(name, text, parent) {
    var made = document.createElement(name);
    if (text !== null) made.textContent = text;
    if (parent) parent.appendChild(made);
    return made;
  }

  function drawn(name, attributes, parent) {
    var made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.keys(attributes).forEach(function (key) { made.setAttribute(key, attributes[key]); });
    parent.appendChild(made);
    return made;
  }

  function shown(value) { return String(Number(value.toPrecision(3))); }

  function curve(metric, lines, parent) {
    var all = [].concat.apply([], Object.values(lines));
    var x = all.map(function (point) { return point[0]; }), y = all.map(function (point) { return point[1]; });
    var left = Math.min.apply(null, x), right = Math.max.apply(null, x), low = Math.min.apply(null, y), high = Math.max.apply(null, y);
    function across(value) { return 46 + 250 * (right > left ? (value - left) / (right - left) : 0.5); }
    function down(value) { return 112 - 100 * (high > low ? (value - low) / (high - low) : 0.5); }
    var figure = element("figure", null, parent), caption = element("figcaption", metric + " by epoch: ", figure);
    var said = Object.keys(lines).map(function (name) {
      var points = lines[name];
      return name + " from " + shown(points[0][1]) + " to " + shown(points[points.length - 1][1]);
    });
    var svg = drawn("svg", { viewBox: "0 0 310 136", role: "img", "aria-label": metric + ": " + said.join(", ") }, figure);
    [[high, 12, 40], [low, 112, 40]].forEach(function (tick) {
      drawn("text", { x: tick[2], y: tick[1] + 4, "text-anchor": "end" }, svg).textContent = shown(tick[0]);
    });
    [[left, 46], [right, 296]].forEach(function (tick) {
      drawn("text", { x: tick[1], y: 130, "text-anchor": "middle" }, svg).textContent = shown(tick[0]);
    });
    Object.keys(lines).forEach(function (name, index) {
      var points = lines[name].map(function (point) { return across(point[0]).toFixed(1) + "," + down(point[1]).toFixed(1); });
      if (points.length === 1) points.push(points[0].replace(/^[\d.]+/, function (start) { return String(Number(start) + 4); }));
      drawn("polyline", { points: points.join(" "), "class": "line" + index % 4 }, svg);
      if (index) caption.append(", ");
      element("b", name, caption).className = "line" + index % 4;
    });
  }

  function pairs(values, parent) {
    var box = element("dl", null, parent);
    Object.keys(values).sort().forEach(function (name) { element("dt", name, box); element("dd", values[name], box); });
  }

  function link(text, href, parent) {
    var made = element("a", text, parent);
    made.href = href;
    return made;
  }

  function fill(box, job) {
    if (job.error) element("p", job.error, box).className = "error";
    if (job.scores.length) element("p", job.scores.map(function (each) {
      return (job.scores.length > 2 ? each[0] + ", " : "") + each[1] + ", " + each[2] + " " + each[3];
    }).join("; "), box);
    var names = Object.keys(job.curves);
    if (names.length) {
      var row = element("div", null, box);
      row.className = "curves";
      names.forEach(function (name) { curve(name, job.curves[name], row); });
    }
    var place = element("p", "Artifact: ", box);
    element("code", page.store.replace(/\/$/, "") + "/" + job.node, place);
    if (page.mlflow) {
      var tracked = element("p", null, box);
      link("Run in MLflow", page.mlflow.link.replace("%7Bnode%7D", encodeURIComponent(job.node)), tracked);
      if (page.mlflow.needs) { tracked.append(", while "); element("code", page.mlflow.needs, tracked); tracked.append(" runs"); }
    }
    if (job.parents.length) {
      var built = element("p", "Built on ", box);
      job.parents.forEach(function (number, index) {
        if (index) built.append(", ");
        link(page.jobs[number].title + " (" + page.jobs[number].about + ")", "#jobs=" + number, built);
      });
    }
    var config = element("details", null, box);
    element("summary", "Configuration", config);
    pairs(Object.assign({}, page.shared, job.config), config);
    if (page.logs[job.log]) {
      element("h3", "End of the log", box);
      element("pre", page.logs[job.log], box).tabIndex = 0;
    }
  }

  function open() {
    var found = /^#jobs=([\d,]+)$/.exec(location.hash);
    var jobs = found ? found[1].split(",").map(function (number) { return page.jobs[Number(number)]; }).filter(Boolean) : [];
    if (!jobs.length) { if (dialog.open) dialog.close(); return; }
    var same = jobs.every(function (job) { return job.title === jobs[0].title; });
    title.textContent = same ? jobs[0].title : jobs.length + " jobs";
    list.replaceChildren();
    jobs.forEach(function (job) {
      var box = element("details", null, list), head = element("summary", (same ? "" : job.title + ", ") + job.about, box);
      var tests = job.scores.filter(function (each) { return each[2] === "test"; });
      if (tests.length === 1) head.append(", test " + tests[0][3]);
      box.addEventListener("toggle", function () { if (box.open && box.childElementCount === 1) fill(box, job); });
      box.open = jobs.length === 1;
    });
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    title.focus();
  }

  dialog.addEventListener("click", function (event) { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", function () {
    if (/^#jobs=/.test(location.hash)) history.replaceState(null, "", location.pathname + location.search);
  });
  window.addEventListener("hashchange", open);
  open();
})();
