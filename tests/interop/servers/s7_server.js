// An S7 server made of snap7: loopback only, fixed data blocks.
//
//   node s7_server.js PORT [PDU]  0 = any free port; prints `PORT n` once it listens, then serves until it is killed.
//                                 PDU = the PDU size in bytes that is granted whatever a client asks for
//
// DB1 (256 bytes)                                     DB2 (4000 bytes): REAL number i at byte 4 * i is i / 10
//   0   REAL   21.5                                   DB4 (40000 bytes): as DB2
//   4   REAL   counts up by 1 every 100 ms            M (64 bytes): MB0 = 0b10101010, MW2 = 4242
//   8   INT    -1234                                  I (64 bytes): IB0 = 1; Q (64 bytes): QB0 = 2
//                                                     T: T0 = 12.3 s (123 x 100 ms), C: C0 = 427, C1 = 3
//   10  UINT   54321
//   12  DINT   -100000
//   16  UDINT  3000000000
//   20  BOOL   20.0 = true, 20.1 = false, 20.3 = true
//   24  LREAL  3.141592653589793
//   32  STRING[32] "GENBA"
//   66  LINT   9007199254740993
//   74  REAL   NaN
//   78  DATE_AND_TIME 2026-01-02 03:04:05.678 (a Friday)
//   86  BYTE   200
"use strict";
const snap7 = require("node-snap7");
const freePort = require("./free_port.js");

const db1 = Buffer.alloc(256);
db1.writeFloatBE(21.5, 0);
db1.writeInt16BE(-1234, 8);
db1.writeUInt16BE(54321, 10);
db1.writeInt32BE(-100000, 12);
db1.writeUInt32BE(3000000000, 16);
db1.writeUInt8(0b00001001, 20);
db1.writeDoubleBE(3.141592653589793, 24);
db1.set([32, 5, ...Buffer.from("GENBA", "latin1")], 32);
db1.writeBigInt64BE(9007199254740993n, 66);
db1.writeFloatBE(NaN, 74);
db1.set([0x26, 0x01, 0x02, 0x03, 0x04, 0x05, 0x67, 0x86], 78); // BCD; the last half byte is the weekday, Sunday = 1
db1.writeUInt8(200, 86);

const db2 = Buffer.alloc(4000);
for (let i = 0; i < 1000; i++) db2.writeFloatBE(i / 10, 4 * i);

const db4 = Buffer.alloc(40000);
for (let i = 0; i < 10000; i++) db4.writeFloatBE(i / 10, 4 * i);

const flags = Buffer.alloc(64);
flags.writeUInt8(0b10101010, 0);
flags.writeUInt16BE(4242, 2);

async function main() {
  const port = await freePort();
  const server = new snap7.S7Server();
  server.SetEventMask(0); // with events on, snap7 resets connections under load
  server.SetParam(server.LocalPort, port);
  if (process.argv[3]) server.SetParam(10, Number(process.argv[3])); // snap7's p_i32_PDURequest, which node-snap7 does not name here
  server.RegisterArea(server.srvAreaDB, 1, db1);
  server.RegisterArea(server.srvAreaDB, 2, db2);
  server.RegisterArea(server.srvAreaDB, 4, db4);
  server.RegisterArea(server.srvAreaMK, flags);
  server.RegisterArea(server.srvAreaPE, Buffer.alloc(64, Buffer.from([1, ...Array(63).fill(0)])));
  server.RegisterArea(server.srvAreaPA, Buffer.alloc(64, Buffer.from([2, ...Array(63).fill(0)])));
  server.RegisterArea(server.srvAreaTM, Buffer.from([0x11, 0x23])); // snap7 looks T2 up where T1 should be: T0 and C0 only
  server.RegisterArea(server.srvAreaCT, Buffer.from([0x04, 0x27, 0x00, 0x03]));
  if (!server.StartTo("127.0.0.1")) throw new Error(server.ErrorText(server.LastError()));
  console.log(`PORT ${port}`);

  let count = 0;
  setInterval(() => {
    // also what keeps the process alive: snap7 serves from threads that node does not wait for
    const now = server.GetArea(server.srvAreaDB, 1);
    now.writeFloatBE(++count, 4);
    server.SetArea(server.srvAreaDB, 1, now);
  }, 100);
}

main().catch((error) => {
  console.error(String(error));
  process.exit(1);
});
