// Elements, made in an expression.

/** An element with these attributes and children. `on...` are listeners; null, undefined and false leave out. */
function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same in SVG. */
function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, of] of Object.entries(value)) element.style.setProperty(key, of);
    else element.setAttribute(name, value === true ? "" : value);
  }
  return put(element, children);
}

/** Adds children, leaving out what is null, undefined or false. */
function put(element, ...children) {
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Text in which the name of a CVE is not broken over lines. */
function prose(text) {
  return text.split(/(CVE-\d+-\d+\)?)/).map((part, at) => (at % 2 === 1 ? make("span", { class: "whole" }, part) : part));
}

const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;
const number = (count) => Number(count).toLocaleString("en-US");
/** The arrow that text writes as two characters. */
const arrows = (text) => text.replaceAll("->", "→");
const fileName = (path) => path.slice(path.lastIndexOf("/") + 1);
