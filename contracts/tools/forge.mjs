// Runs forge from npm and ends as it ends. The launcher that npm installs as `forge` always exits with 0 (1.7.1), so that a
// failed build or test would go unnoticed. FORGE names another binary, for a platform that npm has none for.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import process from 'node:process';

function binary() {
  if (process.env.FORGE) return process.env.FORGE;
  const arch = process.arch === 'x64' ? 'amd64' : process.arch;
  const suffix = process.platform === 'win32' ? '.exe' : '';
  const path = `@foundry-rs/forge-${process.platform}-${arch}/bin/forge${suffix}`;
  try {
    return createRequire(import.meta.url).resolve(path);
  } catch {
    console.error(`forge: ${path} is not installed; run \`npm ci\`, or set FORGE to a forge binary`);
    process.exit(127);
  }
}

const { status, signal, error } = spawnSync(binary(), process.argv.slice(2), { stdio: 'inherit' });
if (error) throw error;
if (signal) process.kill(process.pid, signal);
process.exitCode = status ?? 1;
