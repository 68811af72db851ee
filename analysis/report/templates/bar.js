// The bar that stays in view: which section one reads, what all tables show, and the colours.
(function () {
  "use strict";

  var links = Array.from(document.querySelectorAll(".bar nav a"));
  function mark() {
    // The last section whose head has passed under the bar is the one that is read.
    var read = null;
    links.forEach(function (link) {
      var section = document.getElementById(link.hash.slice(1));
      if (section && section.getBoundingClientRect().top < 140) read = link;
    });
    links.forEach(function (link) {
      if (link === read) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
    });
    if (read) read.parentElement.scrollLeft = read.offsetLeft - read.parentElement.offsetLeft - 24;
  }
  var waiting = false;
  window.addEventListener("scroll", function () {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(function () { waiting = false; mark(); });
  }, { passive: true });
  mark();

  var selects = Array.from(document.querySelectorAll("[data-filter]"));
  function names(select) { return select.value ? JSON.parse(select.value) : null; }
  function others(select) {
    return Array.from(select.options).filter(function (each) { return each.value && each.value !== select.value; }).map(function (each) {
      return JSON.parse(each.value)[0];
    });
  }

  function filter(table) {
    var heads = Array.from(table.tHead.rows[0].cells).map(function (head) { return (head.querySelector("button") || head).textContent.trim(); });
    var wanted = {}, away = [];
    selects.forEach(function (select) {
      var kept = names(select), columns = select.dataset.filter === "method" ? ["Method"] : ["Target", "Task"];
      heads.forEach(function (head, column) { if (kept && columns.indexOf(head) >= 0) wanted[column] = kept; });
      if (kept && select.dataset.filter === "target") away = others(select);
    });
    Array.from(table.tHead.rows[0].cells).forEach(function (cell, column) { cell.hidden = away.indexOf(heads[column]) >= 0; });
    var group = null;
    Array.from(table.tBodies[0].rows).forEach(function (row) {
      if (row.classList.contains("group")) { group = row; group.hidden = true; return; }
      row.hidden = Object.keys(wanted).some(function (column) { return wanted[column].indexOf(row.cells[column].textContent.trim()) < 0; });
      if (group && !row.hidden) group.hidden = false;
      Array.from(row.cells).forEach(function (cell, column) { cell.hidden = away.indexOf(heads[column]) >= 0; });
    });
  }

  function filterAll() {
    document.querySelectorAll("table.sortable").forEach(filter);
    document.getElementById("filtered").textContent = "The tables show " + selects.map(function (select) {
      return select.value ? select.selectedOptions[0].textContent : "all " + select.dataset.filter + "s";
    }).join(" and ") + ".";
  }
  selects.forEach(function (select) { select.addEventListener("change", filterAll); });
  document.addEventListener("sorted", function (event) { filter(event.target); });
  if (selects.some(function (select) { return select.value; })) filterAll(); // the browser has kept a choice

  var button = document.getElementById("theme"), colours = ["system", "light", "dark"], chosen = "system";
  function paint() {
    if (chosen === "system") delete document.documentElement.dataset.colours; else document.documentElement.dataset.colours = chosen;
    button.querySelector("b").textContent = chosen;
    document.querySelectorAll("picture source").forEach(function (source) {
      source.media = chosen === "system" ? "(prefers-color-scheme: dark)" : chosen === "dark" ? "all" : "not all";
    });
  }
  // A browser may deny storage to a page from disk.
  try { chosen = colours.indexOf(localStorage.getItem("colours")) < 0 ? "system" : localStorage.getItem("colours"); } catch (error) { chosen = "system"; }
  button.hidden = false;
  button.addEventListener("click", function () {
    chosen = colours[(colours.indexOf(chosen) + 1) % 3];
    try { localStorage.setItem("colours", chosen); } catch (error) { /* it then lasts until the page is closed */ }
    paint();
  });
  paint();
})();
