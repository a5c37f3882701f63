// Parses proto-schemas/asyncapi.yaml with AsyncAPI's own parser; then breaks it, one thing at a time, and demands that it
// is noticed. `node check.mjs TOOLS DOCUMENT`: TOOLS has the npm packages.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [tools, file] = process.argv.slice(2).map((path) => resolve(path));
const require = createRequire(`${tools}/`);
const { Parser } = require("@asyncapi/parser");
const { ProtoBuffSchemaParser } = require("@asyncapi/protobuf-schema-parser");

const SEVERITIES = ["error", "warning"]; // the others are advice
const BREAKAGES = {
  "a version that does not exist": ["asyncapi: 3.0.0", "asyncapi: 3.9.9"],
  "a field that AsyncAPI does not know": ["defaultContentType:", "defaultContentTypes:"],
  "an action that does not exist": ["action: send", "action: publish"],
  "a message that does not exist": ["#/components/messages/BookingCreated", "#/components/messages/BookingCreate"],
  "a schema file that does not exist": ["./json/booking.created.schema.json", "./json/booking.create.schema.json"],
  "protobuf that is none": ["string event = 2;", "strin event 2;"],
  "a binding of the wrong type": ["deliveryMode: 2", "deliveryMode: 9"],
};

async function diagnose(text) {
  const parser = new Parser();
  parser.registerSchemaParser(ProtoBuffSchemaParser());
  const { document, diagnostics } = await parser.parse(text, { source: file });
  return { document, diagnostics };
}

const bad = ({ severity }) => severity <= 1;
const text = readFileSync(file, "utf8");
const { document, diagnostics } = await diagnose(text);
for (const { severity, message, path, range } of diagnostics.filter(bad)) {
  console.error(`  ${SEVERITIES[severity]}: line ${range.start.line + 1}: ${path.join(".")}: ${message}`);
}
const found = diagnostics.filter(bad).length;
console.log(
  `  ${document?.channels().length ?? 0} channels, ${document?.operations().length ?? 0} operations, ` +
    `${document?.messages().length ?? 0} messages: ${found} problems`,
);
if (found || !document) process.exit(1);

let unnoticed = 0;
for (const [what, [old, broken]] of Object.entries(BREAKAGES)) {
  if (!text.includes(old)) throw new Error(`nothing to break: ${old} is not there`);
  const { diagnostics } = await diagnose(text.replaceAll(old, broken));
  if (diagnostics.filter(bad).length === 0) {
    console.error(`  not noticed: ${what}`);
    unnoticed += 1;
  }
}
console.log(`  ${Object.keys(BREAKAGES).length} breakages tried on it`);
process.exit(unnoticed ? 1 : 0);
