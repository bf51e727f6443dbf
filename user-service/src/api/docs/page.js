// Shows the description of the service, and tries requests. Whatever comes from outside becomes text, never markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
let description = {};

/** An element with attributes and children; texts become text. */
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== undefined));
  return element;
}

/** What a reference leads to. */
function follow(part) {
  if (!part || !part.$ref) return part || {};
  const steps = part.$ref.slice(2).split("/");
  return follow(steps.reduce((place, step) => place[step], description));
}

/** A value that a schema allows. */
function example(schema) {
  const at = follow(schema);
  if (at.examples && at.examples.length) return at.examples[0];
  if (at.example !== undefined) return at.example;
  if (at.enum) return at.enum[0];
  const one = at.oneOf || at.anyOf || at.allOf;
  if (one) return example(one.find((choice) => follow(choice).type !== "null"));
  switch ([].concat(at.type)[0]) {
    case "object":
      return Object.fromEntries(Object.entries(at.properties || {}).map(([name, inner]) => [name, example(inner)]));
    case "array":
      return [example(at.items)];
    case "integer":
    case "number":
      return at.minimum || 0;
    case "boolean":
      return true;
    default:
      return at.format || "text";
  }
}

function table(heads, rows) {
  const row = (cells, kind) => make("tr", {}, ...cells.map((cell) => make(kind, {}, cell)));
  return make("table", {}, row(heads, "th"), ...rows.map((cells) => row(cells, "td")));
}

function code(text) {
  return make("code", {}, text);
}

/** The form that tries an operation. */
function trial(method, path, operation) {
  const fields = (operation.parameters || []).map((parameter) => {
    const input = make("input", { "aria-label": parameter.name, placeholder: parameter.in });
    return { parameter, input };
  });
  const [type, content] = Object.entries((operation.requestBody || {}).content || {})[0] || [];
  const body = type && make("textarea", { "aria-label": "body", spellcheck: "false" });
  if (body) body.value = JSON.stringify(content.example || example(content.schema), null, type.includes("ndjson") ? 0 : 2);
  const answer = make("pre", { hidden: "" });
  const button = make("button", { type: "button" }, "Try it");
  button.addEventListener("click", async () => {
    answer.hidden = false;
    answer.textContent = "…";
    try {
      answer.textContent = await ask(method, path, fields, type, body && body.value);
    } catch (error) {
      answer.textContent = String(error);
    }
  });
  const rows = fields.map(({ parameter, input }) => [
    code(parameter.name + (parameter.required ? " *" : "")), input, parameter.description || "",
  ]);
  return [fields.length ? table(["Parameter", "Value", "Meaning"], rows) : undefined, body, button, answer];
}

/** The answer to a request, as text. An answer without an end is cut off after a moment. */
async function ask(method, path, fields, type, body) {
  const headers = new Headers();
  const query = new URLSearchParams();
  let target = path;
  for (const { parameter, input } of fields) {
    if (input.value === "" && parameter.in !== "path") continue;
    if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    if (parameter.in === "query") query.set(parameter.name, input.value);
    if (parameter.in === "header") headers.set(parameter.name, input.value);
  }
  const token = document.getElementById("token").value;
  if (token) headers.set("authorization", `Bearer ${token}`);
  if (type) headers.set("content-type", type);
  const url = query.size ? `${target}?${query}` : target;
  const answer = await fetch(url, { method: method.toUpperCase(), headers, body, credentials: "omit", redirect: "error" });
  const lines = [...answer.headers].map(([name, value]) => `${name}: ${value}`);
  const head = `${answer.status} ${answer.statusText}\n${lines.join("\n")}\n\n`;
  return head + (await beginning(answer));
}

/** The first 64 KiB of a body, or what comes of it within three seconds. */
async function beginning(answer) {
  if (!answer.body) return "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const over = new Promise((end) => setTimeout(() => end({ done: true }), 3000));
  let text = "";
  for (;;) {
    const { done, value } = await Promise.race([reader.read(), over]);
    if (done || text.length > 65536) break;
    text += value;
  }
  reader.cancel().catch(() => {});
  return text;
}

function answers(operation) {
  const rows = Object.entries(operation.responses).sort().map(([status, response]) => {
    const types = Object.entries(response.content || {}).map(([type, { schema }]) => {
      const name = schema && schema.$ref ? schema.$ref.split("/").pop() : "";
      return `${type} ${name}`.trim();
    });
    return [code(status), response.description, types.join(", "), Object.keys(response.headers || {}).join(", ")];
  });
  return table(["Status", "Meaning", "Body", "Fields"], rows);
}

function show(method, path, operation) {
  const scopes = new Set((operation.security || []).flatMap((way) => Object.values(way).flat()));
  return make("details", { id: operation.operationId },
    make("summary", {},
      make("span", { class: "scope" }, [...scopes].join(" ")),
      make("span", { class: `method ${method}` }, method.toUpperCase()),
      code(path), ` ${operation.summary || ""}`),
    make("p", {}, operation.description || ""),
    ...trial(method, path, operation).filter((part) => part !== undefined),
    answers(operation));
}

function schemas() {
  return Object.entries((description.components || {}).schemas || {}).map(([name, schema]) =>
    make("details", {}, make("summary", {}, code(name), ` ${schema.description || ""}`),
      make("pre", {}, JSON.stringify(schema, null, 2))));
}

async function begin() {
  const main = document.getElementById("operations");
  const answer = await fetch("/openapi.json", { credentials: "omit" });
  if (!answer.ok) throw new Error(`the description is not there: ${answer.status}`);
  description = await answer.json();
  document.getElementById("title").textContent = `${description.info.title} ${description.info.version}`;
  document.getElementById("about").textContent = description.info.description || "";
  main.replaceChildren();
  for (const tag of description.tags || []) {
    main.append(make("h2", {}, tag.name), make("p", {}, tag.description || ""));
    for (const [path, item] of Object.entries(description.paths))
      for (const method of METHODS)
        if (item[method] && (item[method].tags || []).includes(tag.name)) main.append(show(method, path, item[method]));
  }
  main.append(make("h2", {}, "Schemas"), ...schemas());
}

begin().catch((error) => {
  document.getElementById("operations").textContent = String(error);
});
