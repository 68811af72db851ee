// Makes every table of class `sortable` sort by a click on a column's head: descending, ascending, then as it was.
(function () {
  "use strict";

  function key(row, column) {
    var cell = row.cells[column];
    var number = cell.getAttribute("data-sort");
    if (number !== null) return Number(number);
    return cell.classList.contains("number") ? null : cell.textContent.trim().toLowerCase();
  }

  function compare(a, b, sign) {
    // What is missing stays at the end in both directions.
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  function enable(table) {
    var body = table.tBodies[0];
    var original = Array.from(body.rows);
    var heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      var first = head.firstChild;
      button.textContent = first ? first.textContent : "";
      if (first) head.replaceChild(button, first); else head.appendChild(button);
      button.addEventListener("click", function () {
        var numeric = head.classList.contains("number");
        var order = numeric ? ["descending", "ascending", null] : ["ascending", "descending", null];
        var next = order[(order.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        var rows = original.slice();
        if (next !== null) {
          head.setAttribute("aria-sort", next);
          var sign = next === "ascending" ? 1 : -1;
          rows = rows.filter(function (row) { return !row.classList.contains("group"); });
          rows.sort(function (a, b) { return compare(key(a, column), key(b, column), sign); });
        }
        body.replaceChildren.apply(body, rows);
        table.dispatchEvent(new Event("sorted", { bubbles: true }));
      });
    });
  }

  function hint(box) {
    box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  }

  document.querySelectorAll("table.sortable").forEach(enable);
  document.querySelectorAll(".scroll").forEach(function (box) {
    box.addEventListener("scroll", function () { hint(box); }, { passive: true });
    // Also when a closed part of the page opens.
    new ResizeObserver(function () { hint(box); }).observe(box);
  });
})();
