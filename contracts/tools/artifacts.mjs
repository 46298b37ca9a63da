// Writes what other code needs of the contracts into artifacts/, one small file each, in the layout that forge and
// alloy's `sol!` share. With `--check` it writes nothing and fails when a committed file is not what the sources give.
// Both read forge's out/: build first.
import { readFileSync, writeFileSync } from 'node:fs';
import process from 'node:process';

const CONTRACTS = ['GrantDistributor', 'GrantToken', 'PlayerWallet', 'WalletFactory'];
const root = new URL('..', import.meta.url);

function compiled(contractName) {
  const { abi, bytecode } = JSON.parse(readFileSync(new URL(`out/${contractName}.sol/${contractName}.json`, root), 'utf8'));
  return `${JSON.stringify({ contractName, abi, bytecode: { object: bytecode.object } }, null, 2)}\n`;
}

function committed(file) {
  try {
    return readFileSync(new URL(file, root), 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}

const check = process.argv.includes('--check');
const stale = [];
for (const contractName of CONTRACTS) {
  const file = `artifacts/${contractName}.json`;
  const fresh = compiled(contractName);
  if (fresh === committed(file)) continue;
  stale.push(file);
  if (!check) writeFileSync(new URL(file, root), fresh);
}

if (check && stale.length > 0) {
  console.error(`artifacts: ${stale.join(', ')} differ from what src/ compiles to; run \`npm run artifacts\` and commit the result`);
  process.exitCode = 1;
} else {
  const same = CONTRACTS.length - stale.length;
  console.log(check ? `artifacts: ${same} of ${CONTRACTS.length} match the sources` : `artifacts: ${stale.length} written, ${same} unchanged`);
}
