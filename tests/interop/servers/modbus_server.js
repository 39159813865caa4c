// A Modbus TCP server made of modbus-serial: loopback only, one fixed map, unit 1; other units do not answer.
//
//   node modbus_server.js PORT    0 = any free port; prints `PORT n` once it listens, then serves until it is killed
//
// Addresses are zero-based; what lies outside the map answers exception 2. Function code 43 tells vendor, product, revision and model.
//
//   holding registers 0-99, 200-259 (the rest up to 199 is a hole)   input registers 0-31: the register's own number
//     0-1    float32 ABCD   21.5                                     coils 0-63: every third is on
//     2-3    float32 CDAB   -7.25                                    discrete inputs 0-63: every fourth is on
//     4      int16          -1234
//     5      uint16         54321
//     6-7    uint32 ABCD    3000000000
//     10-13  float64 ABCD   3.141592653589793
//     14-17  uint64 ABCD    9007199254740993
//     18-21  text           "GENBA-01"
//     30     uint16         counts its own reads
//     200-259 uint16        the register's own number
"use strict";
const ServerTCP = require("modbus-serial/servers/servertcp");
const freePort = require("./free_port.js");

const held = Buffer.alloc(520);
held.writeFloatBE(21.5, 0);
const swapped = Buffer.alloc(4);
swapped.writeFloatBE(-7.25);
held.set([swapped[2], swapped[3], swapped[0], swapped[1]], 4);
held.writeInt16BE(-1234, 8);
held.writeUInt16BE(54321, 10);
held.writeUInt32BE(3000000000, 12);
held.writeDoubleBE(3.141592653589793, 20);
held.writeBigUInt64BE(9007199254740993n, 28);
held.write("GENBA-01", 36, "latin1");
for (let i = 200; i < 260; i++) held.writeUInt16BE(i, 2 * i);

const refuse = () => {
  throw Object.assign(new Error("illegal data address"), { modbusErrorCode: 2 });
};
const within = (address, length) => (address < length ? address : refuse());

let reads = 0;
const map = {
  getHoldingRegister: (address) => {
    if (address >= 260 || (address >= 100 && address < 200)) refuse();
    return address === 30 ? ++reads : held.readUInt16BE(2 * address);
  },
  getInputRegister: (address) => within(address, 32),
  getCoil: (address) => within(address, 64) % 3 === 0,
  getDiscreteInput: (address) => within(address, 64) % 4 === 0,
  readDeviceIdentification: () => ({ 0: "genba tests", 1: "modbus-serial", 2: "1.0", 5: "ServerTCP" }),
};

async function main() {
  const port = await freePort();
  const server = new ServerTCP(map, { host: "127.0.0.1", port, unitID: 1 });
  server.on("initialized", () => console.log(`PORT ${port}`));
  server.on("serverError", (error) => {
    console.error(String(error));
    process.exit(1);
  });
  server.on("socketError", () => {}); // a client that went away
}

main();
