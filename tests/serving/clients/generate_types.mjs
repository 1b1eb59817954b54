// Generates types from a contract with openapi-typescript; `format: binary` is a Blob, as its documentation shows.
import { readFile, writeFile } from "node:fs/promises";
import openapiTS, { astToString } from "openapi-typescript";
import ts from "typescript";

const [contract, types] = process.argv.slice(2);
const blob = ts.factory.createTypeReferenceNode("Blob");
const nodes = await openapiTS(await readFile(contract, "utf8"), {
  defaultNonNullable: false,
  transform: (schema) => (schema.format === "binary" ? blob : undefined),
});
await writeFile(types, astToString(nodes));
