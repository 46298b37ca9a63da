// Writes test/support/merkle_vectors.json: trees of claims as OpenZeppelin's own library builds them, with proofs. What the
// contract accepts and what the campaign service publishes are both held against that file. With `--check` it writes
// nothing and fails when the committed file is not what the library gives.
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import { StandardMerkleTree } from '@openzeppelin/merkle-tree';

const FILE = 'test/support/merkle_vectors.json';
const ENCODING = ['uint256', 'address', 'uint256'];
const SIZES = [1, 2, 3, 5, 8, 100];

// The bounds of each field, then what the service makes: dense ids, now and then a sparse one or a player with two grants.
const BOUNDS = [
  { id: 0n, amount: 0n },
  { id: 2n ** 256n - 1n, amount: 2n ** 96n - 1n },
];
const ISSUER = 0x9d3cf1a2b4e57786n;
const sha256 = (text) => createHash('sha256').update(text).digest('hex');

function leaf(index) {
  const sparse = index % 10 === 3;
  const id = sparse ? BigInt(`0x${sha256(`id ${index}`)}`) | (1n << 255n) : (ISSUER << 64n) | BigInt(index);
  const player = index % 7 === 6 ? index - 1 : index;
  const fields = { id, amount: BigInt(index + 1) * 10n ** 18n, ...BOUNDS[index - 1] };
  return { id: String(fields.id), to: `0x${sha256(`player ${player}`).slice(0, 40)}`, amount: String(fields.amount) };
}

function vector(size) {
  const leaves = Array.from({ length: size }, (_, index) => leaf(index));
  const tree = StandardMerkleTree.of(leaves.map(({ id, to, amount }) => [id, to, amount]), ENCODING);
  const proven = leaves.map((_, index) => index).filter((index) => size < 100 || index % 11 === 0);
  return { root: tree.root, leaves, proofs: proven.map((position) => ({ position, proof: tree.getProof(position) })) };
}

const root = new URL('..', import.meta.url);

function committed() {
  try {
    return readFileSync(new URL(FILE, root), 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}

const fresh = `${JSON.stringify({ encoding: ENCODING, trees: SIZES.map(vector) }, null, 1)}\n`;
const same = fresh === committed();
if (!process.argv.includes('--check')) {
  if (!same) writeFileSync(new URL(FILE, root), fresh);
  console.log(`merkle vectors: ${same ? 'unchanged' : 'written'}`);
} else if (same) {
  console.log(`merkle vectors: ${SIZES.length} trees match the library`);
} else {
  console.error(`merkle vectors: ${FILE} differs from what the library gives; run \`npm run vectors\` and commit the result`);
  process.exitCode = 1;
}
