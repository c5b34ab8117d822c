// A prediction in a sentence and a table: the model's, and beside it that with a drawn map.

const ROWS = 5;

export function percent(share) {
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

function best(scores) {
  return scores.indexOf(Math.max(...scores));
}

// Fill the page's #sentence and #scores; edited is null where there is no drawn map, or where it cannot act.
export function tell(labels, scores, edited) {
  const first = best(scores);
  let said = `${labels[first]}, ${percent(scores[first])}.`;
  if (edited) {
    const now = best(edited);
    said += now === first ? ` With your map ${percent(edited[now])}.` : ` With your map ${labels[now]}, ${percent(edited[now])}.`;
  }
  document.getElementById("sentence").textContent = said;
  const order = [...labels.keys()].sort((a, b) => scores[b] - scores[a]).slice(0, ROWS);
  if (edited && !order.includes(best(edited))) order.push(best(edited));
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const word of ["class", "the model", ...(edited ? ["with your map"] : [])]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = word;
    head.append(cell);
  }
  const body = table.createTBody();
  for (const at of order) {
    const row = body.insertRow(), name = document.createElement("th");
    name.scope = "row";
    name.textContent = labels[at];
    row.append(name);
    for (const of of edited ? [scores, edited] : [scores]) {
      const cell = row.insertCell(), track = document.createElement("span");
      cell.textContent = percent(of[at]);
      track.className = "track";
      track.style.width = `${Math.max(1, 100 * of[at])}%`;
      cell.append(track);
    }
  }
  document.getElementById("scores").replaceChildren(table);
}
