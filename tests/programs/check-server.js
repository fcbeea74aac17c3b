// Asks server.js twice, and expects the same process to have gone on between. See README.md.
"use strict";
const net = require("net");

function ask() {
  return new Promise((resolve, reject) => {
    let answer = "";
    net.connect("server.sock").on("data", (data) => { answer += data; }).on("end", () => resolve(answer)).on("error", reject);
  });
}

const parse = (answer) => {
  const found = /^cycle (\d+) pid (\d+)\n$/.exec(answer);
  if (!found) throw new Error(`unexpected answer ${JSON.stringify(answer)}`);
  return { cycle: Number(found[1]), pid: Number(found[2]) };
};

async function main() {
  const first = parse(await ask());
  for (const deadline = Date.now() + 30000; Date.now() < deadline;) {
    const next = parse(await ask());
    if (next.pid !== first.pid) throw new Error(`pid ${first.pid} became ${next.pid}`);
    if (next.cycle < first.cycle) throw new Error(`cycle ${first.cycle} became ${next.cycle}`);
    if (next.cycle > first.cycle) return console.log(`ok ${next.cycle}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`the server stands still at cycle ${first.cycle}`);
}

main().catch((error) => {
  console.log(`BAD server: expected an answer, found ${error.message}`);
  process.exit(1);
});
