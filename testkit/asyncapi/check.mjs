// docs/asyncapi.yaml is an AsyncAPI document, and each of its examples fits what the document says of the message. That the
// document says what the code does is held by shared/tests/schemas.

import { readFile } from 'node:fs/promises'

import specs from '@asyncapi/specs'
import Ajv from 'ajv'
import addFormats from 'ajv-formats'
import { parse } from 'yaml'

const text = await readFile(process.argv[2] ?? new URL('../../docs/asyncapi.yaml', import.meta.url), 'utf8')
const document = parse(text)

// Formats and keywords that neither checks are for those who read.
const options = { allErrors: true, strict: false, logger: false }
// AsyncAPI's schema brings the schema of JSON Schema with it.
const asyncapi = addFormats(new Ajv({ ...options, meta: false, validateSchema: false }))
const ajv = addFormats(new Ajv(options)).addSchema(document, 'document')

const checks = [['the document', asyncapi.compile(specs.schemas[document.asyncapi]), document]]
for (const [name, message] of Object.entries(document.components.messages)) {
  for (const example of message.examples) {
    for (const part of ['headers', 'payload']) {
      const validate = ajv.compile({ $ref: `document${message[part].$ref}` })
      checks.push([`${name}, example ${example.name}, ${part}`, validate, example[part]])
    }
  }
}

const failed = checks.filter(([what, validate, value]) => {
  const fits = validate(value)
  for (const { instancePath, message } of validate.errors ?? []) console.error(`${what}: ${instancePath} ${message}`)
  return !fits
})
console.log(`${checks.length - failed.length} passed, ${failed.length} failed`)
process.exitCode = failed.length > 0 ? 1 : 0
