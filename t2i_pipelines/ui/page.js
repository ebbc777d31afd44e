let to_heading = false;
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || button.disabled) return;
  const { ask, like, step } = button.dataset;
  to_heading = ask === undefined;
  if (ask !== undefined) trigger("ask", { number: Number(ask) });
  if (like !== undefined) trigger("like", { rank: Number(like) });
  if (step !== undefined) trigger("step", { step: Number(step) });
});
watch("value", () => {
  if (!to_heading) return;
  to_heading = false;
  // what was clicked is gone: go on where the new results begin
  const heading = element.querySelector("h2, [role=alert]");
  if (!heading) return;
  heading.focus({ preventScroll: true });
  heading.scrollIntoView({ block: "start", behavior: "instant" });
});
