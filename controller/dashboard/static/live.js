// Markup that is changed in place: focus, open details and scroll positions stay.
const CLOCK = Symbol.for("fitment.clock");

function attributes(from, to) {
  for (const { name } of [...from.attributes]) {
    // What a person opened stays open.
    if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name);
  }
  for (const { name, value } of [...to.attributes]) {
    if (name !== "open" && from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
}

function morph(from, to) {
  const before = [...from.childNodes];
  const after = [...to.childNodes];
  before.slice(after.length).forEach((node) => node.remove());
  after.forEach((node, index) => {
    const old = before[index];
    if (!old) from.append(node);
    else if (old.nodeName !== node.nodeName) old.replaceWith(node);
    else if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== node.data) old.data = node.data;
    } else if (node.nodeName !== "TIME" || old.dateTime !== node.dateTime) {
      attributes(old, node);
      morph(old, node);
    }
  });
}

function ago(seconds) {
  for (const [unit, size] of [["h", 3600], ["min", 60]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  }
  return `${Math.max(0, Math.floor(seconds))} s ago`;
}

function tell() {
  const now = Date.now() / 1000;
  document.querySelectorAll("time[data-at]").forEach((node) => {
    const at = Number(node.dataset.at);
    const local = new Date(at * 1000);
    const exact = local.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
    const past = now - at;
    const text = past > -60 && past < 86400 ? ago(past) : exact; // a window opens in the future
    if (node.textContent !== text) node.textContent = text;
    if (node.title !== exact) node.title = exact;
  });
}

export default {
  template: "<div></div>",
  props: { markup: String },
  mounted() {
    this.show();
    if (!window[CLOCK]) window[CLOCK] = setInterval(tell, 1000);
  },
  watch: {
    markup() {
      this.show();
    },
  },
  methods: {
    show() {
      const made = document.createElement("div");
      made.innerHTML = this.markup;
      morph(this.$el, made);
      tell();
    },
  },
};
