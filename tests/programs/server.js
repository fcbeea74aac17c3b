// A node server that verifies its timers, a Buffer and its streams. See README.md.
"use strict";
const crypto = require("crypto");
const fs = require("fs");
const net = require("net");

function bad(what, expected, found) {
  fs.writeSync(1, `BAD ${what}: expected ${expected}, found ${found}\n`);
  process.exit(1);
}

function same(what, expected, found) {
  if (expected !== found) bad(what, expected, found);
}

process.on("uncaughtException", (error) => bad("the program", "no exception", error.stack.replace(/\n/g, "\\n")));

const digest = (bytes) => crypto.createHash("sha256").update(bytes).digest("hex");

// A Buffer outside of the JavaScript heap; one page of it is rewritten every cycle.
const SIZE = 4 * 1024 * 1024;
const PAGE = 4096;
const buffer = Buffer.alloc(SIZE);
const page = (number, version) => Buffer.alloc(PAGE, digest(`${number} ${version}`));
const versions = new Array(SIZE / PAGE).fill(0);
for (let number = 0; number < versions.length; number++) page(number, 0).copy(buffer, number * PAGE);
let wholeDigest = digest(buffer);

function checkBuffer(cycle) {
  const number = (cycle * 7) % versions.length;
  const expected = page(number, versions[number]);
  if (!buffer.subarray(number * PAGE, (number + 1) * PAGE).equals(expected)) bad(`page ${number}`, "as written", "changed");
  if (cycle % 20 === 0) same("digest of the Buffer", wholeDigest, digest(buffer));
  versions[number]++;
  page(number, versions[number]).copy(buffer, number * PAGE);
  if (cycle % 20 === 19) wholeDigest = digest(buffer);
}

// Every record that is written comes back, in order, from a stream that reads behind the writer.
let written = 0;
let readBack = 0;
let remainder = "";
const output = fs.createWriteStream("server-stream.txt", { flags: "w" });
const tail = Buffer.alloc(65536);
let input = null;

function checkStream() {
  written++;
  output.write(`record ${written}\n`);
  input ??= fs.openSync("server-stream.txt", "r");
  const length = fs.readSync(input, tail, 0, tail.length, null);
  const lines = (remainder + tail.toString("latin1", 0, length)).split("\n");
  remainder = lines.pop();
  for (const line of lines) same("record read back", `record ${++readBack}`, line);
  if (written - readBack > 10000) bad("records read back", `about ${written}`, readBack);
}

// A chain of timeouts, an interval, and a promise that waits for ever.
let intervals = 0;
let timeouts = 0;
let waited = false;
setInterval(() => intervals++, 10);
(function chain() {
  timeouts++;
  setTimeout(chain, 10);
})();
new Promise((resolve) => setTimeout(resolve, 2 ** 31 - 1)).then(() => { waited = true; });

let cycle = 0;
let lastTimers = 0;
function verify() {
  cycle++;
  checkBuffer(cycle);
  checkStream();
  if (cycle % 50 === 0) {
    if (intervals + timeouts <= lastTimers) bad("timers fired", `more than ${lastTimers}`, intervals + timeouts);
    lastTimers = intervals + timeouts;
  }
  same("a timer that is weeks away", false, waited);
  fs.writeSync(1, `ok ${cycle} records=${readBack} timers=${intervals + timeouts}\n`);
}

fs.rmSync("server.sock", { force: true });
net.createServer((socket) => socket.end(`cycle ${cycle} pid ${process.pid}\n`)).listen("server.sock");
output.on("open", () => setInterval(verify, 30));
