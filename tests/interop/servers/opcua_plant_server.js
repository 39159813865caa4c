// An OPC UA server made of node-opcua with history and alarms: loopback only, policy None, anonymous.
//
//   node opcua_plant_server.js PORT FOLDER    PORT 0 = any free one; FOLDER keeps its certificates
//
// Prints `PORT n` once it listens, then serves until it is killed. ns=1, below Objects/Press, whose events the Server object hears:
//   s=recorded  Double  counts up every 50 ms from the start, its history is kept in memory
//   s=counter   Double  the same number, without a history
//   s=level     Double  0, 10 … 190 and again, a step every 100 ms; its alarm is high above 95
"use strict";
const path = require("node:path");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const { MessageSecurityMode, SecurityPolicy } = require("node-opcua-secure-channel");
const { OPCUAServer } = require("node-opcua-server");
const { DataType } = require("node-opcua-variant");
const freePort = require("./free_port.js");

async function main() {
  const port = await freePort();
  const certificates = new OPCUACertificateManager({
    rootFolder: path.join(path.resolve(process.argv[3] || "."), "pki"),
    automaticallyAcceptUnknownCertificate: true,
  });
  await certificates.initialize();
  const server = new OPCUAServer({
    port,
    host: "127.0.0.1",
    hostname: "127.0.0.1",
    serverCertificateManager: certificates,
    userCertificateManager: certificates,
    securityModes: [MessageSecurityMode.None],
    securityPolicies: [SecurityPolicy.None],
    serverInfo: { applicationUri: "urn:genba:interop" },
  });
  await server.initialize();
  populate(server.engine.addressSpace);
  await server.start();
  console.log(`PORT ${port}`);
}

function populate(space) {
  const namespace = space.getOwnNamespace();
  const press = namespace.addObject({
    browseName: "Press",
    organizedBy: space.rootFolder.objects,
    notifierOf: space.rootFolder.objects.server,
    eventNotifier: 1,
  });
  const add = (name, more = {}) =>
    namespace.addVariable({ componentOf: press, browseName: name, nodeId: `s=${name}`, dataType: DataType.Double, ...more });
  const recorded = add("recorded");
  const counter = add("counter");
  const level = add("level", { eventSourceOf: press });
  for (const variable of [recorded, counter, level]) variable.setValueFromSource({ dataType: DataType.Double, value: 0 });
  space.installHistoricalDataNode(recorded, { maxOnlineValues: 10000 });
  namespace.instantiateExclusiveLimitAlarm("ExclusiveLimitAlarmType", {
    browseName: "LevelAlarm",
    conditionName: "LevelAlarm",
    componentOf: press,
    conditionSource: level,
    inputNode: level,
    highLimit: 95,
    highHighLimit: 1000,
    lowLimit: -100,
    lowLowLimit: -1000,
  });

  let ticks = 0;
  setInterval(() => {
    ticks += 1;
    recorded.setValueFromSource({ dataType: DataType.Double, value: ticks });
    counter.setValueFromSource({ dataType: DataType.Double, value: ticks });
    if (ticks % 2 === 0) level.setValueFromSource({ dataType: DataType.Double, value: ((ticks / 2) % 20) * 10 });
  }, 50);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
