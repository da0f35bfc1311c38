// A run's log as it grows: what the curves are drawn from.

/** The address of an answer about a run. */
export const ask = (path, given) =>
  `/api/${path}?${new URLSearchParams(Object.entries(given).filter(([, value]) => value !== "" && value !== undefined))}`;

export const percent = (value, digits = 1) => (Number.isFinite(value) ? `${(100 * value).toFixed(digits)} %` : "–");

/** [step, value] of each row that has a step. */
export const of = (rows, name) => rows.map((row) => [row.step, row[name] ?? NaN]);

/** Call `grown(curve)` whenever a run's log says more; returns what ends that. */
export function follow(run, grown) {
  const empty = () => ({ steps: [], epochs: [], findings: [], finished: false });
  const curve = empty();
  const source = new EventSource(ask("events", { run }));
  const take = (message) => {
    for (const event of JSON.parse(message.data)) {
      const before = (each) => each.step < event.step;
      if (event.event === "step") { // one that was there before is made again by a training that was killed
        if (event.step <= (curve.steps.at(-1)?.step ?? 0)) curve.steps = curve.steps.filter(before);
        curve.steps.push(event);
      } else if (event.event === "epoch_row") curve.epochs = [...curve.epochs.filter(before), event];
      else if (event.event === "finding") curve.findings.push(event);
      else curve.finished = true;
    }
    grown(curve);
  };
  source.addEventListener("reset", (message) => {
    Object.assign(curve, empty());
    take(message);
  });
  source.addEventListener("more", take);
  return () => source.close();
}
