// The port to listen on: the number of the first argument, or any free one when that is 0 or missing.
"use strict";
const net = require("node:net");

module.exports = () =>
  new Promise((resolve, reject) => {
    const asked = Number(process.argv[2] || 0);
    if (asked) return resolve(asked);
    const probe = net.createServer().once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
