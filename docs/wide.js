// Says of a table or a figure that is wider than the page that it scrolls, and lets the keyboard
// scroll it.
function mark(box) {
  const isWide = box.scrollWidth > box.clientWidth + 1
  if (isWide === box.classList.contains("is-wide")) return
  box.classList.toggle("is-wide", isWide)
  if (isWide) {
    box.tabIndex = 0
    const hint = document.createElement("span")
    hint.className = "scroll-hint"
    hint.textContent = "Wider than the page: scroll sideways \u2192"
    box.before(hint)
  } else {
    box.removeAttribute("tabindex")
    box.previousElementSibling.remove()
  }
}

window.addEventListener("load", () => {
  const watch = new ResizeObserver((changes) => changes.forEach((change) => mark(change.target)))
  const boxes = ".md-typeset__scrollwrap, .md-typeset p:has(> img)"
  document.querySelectorAll(boxes).forEach((box) => {
    mark(box)
    watch.observe(box)
  })
})
