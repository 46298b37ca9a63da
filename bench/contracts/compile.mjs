// Compiles AnyToken.sol as contracts/foundry.toml compiles the contracts, and writes its creation code to AnyToken.hex.
// node bench/contracts/compile.mjs, after `npm ci` in contracts/.
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const modules = new URL('../../contracts/', import.meta.url);
const solc = createRequire(modules)('solc');
const read = (path) => ({ contents: readFileSync(new URL(`node_modules/${path}`, modules), 'utf8') });
const source = readFileSync(new URL('AnyToken.sol', import.meta.url), 'utf8');
const input = {
  language: 'Solidity',
  sources: { 'AnyToken.sol': { content: source } },
  settings: {
    evmVersion: 'cancun',
    optimizer: { enabled: true, runs: 1000000 },
    viaIR: true,
    metadata: { bytecodeHash: 'none', appendCBOR: false },
    outputSelection: { '*': { AnyToken: ['evm.bytecode.object'] } },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: read }));
const errors = (output.errors ?? []).map((error) => error.formattedMessage);
if (errors.length > 0) throw new Error(errors.join('\n'));
writeFileSync(new URL('AnyToken.hex', import.meta.url), `${output.contracts['AnyToken.sol'].AnyToken.evm.bytecode.object}\n`);
