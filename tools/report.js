// SPDX-License-Identifier: GPL-2.0-or-later
// Columns with a button sort their table: by the numbers of data-n where the cells have them, else by their text.
'use strict';

function value(row, column) {
  const cell = row.cells[column];
  return cell.dataset.n === undefined ? cell.textContent : BigInt(cell.dataset.n);
}

function order(a, b) {
  if (typeof a === 'bigint' && typeof b === 'bigint')
    return a < b ? -1 : a > b ? 1 : 0;
  return String(a).localeCompare(String(b));
}

function sort(heading) {
  const table = heading.closest('table'), column = heading.cellIndex;
  // Numbers begin with the largest, texts with the first.
  const first = heading.classList.contains('n') ? 'descending' : 'ascending';
  const second = first === 'ascending' ? 'descending' : 'ascending';
  const direction = heading.getAttribute('aria-sort') === first ? second : first;
  const sign = direction === 'ascending' ? 1 : -1;
  const rows = Array.from(table.tBodies[0].rows);
  rows.sort((a, b) => sign * order(value(a, column), value(b, column)));
  for (const other of table.tHead.rows[0].cells)
    other.removeAttribute('aria-sort');
  heading.setAttribute('aria-sort', direction);
  table.tBodies[0].append(...rows);
}

for (const heading of document.querySelectorAll('table.sortable th')) {
  const button = document.createElement('button');
  button.type = 'button';
  button.append(...heading.childNodes);
  button.addEventListener('click', () => sort(heading));
  heading.append(button);
}
