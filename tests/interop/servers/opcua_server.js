// An OPC UA server made of node-opcua: loopback only, fixed address space, limits raised for large tag lists.
//
//   node opcua_server.js PORT FOLDER    PORT 0 = any free one; FOLDER keeps its certificates
//
// Prints `PORT n` once it listens, then serves until it is killed. Anonymous or genba / secret; policies None, Basic256Sha256,
// Aes128_Sha256_RsaOaep, Aes256_Sha256_RsaPss; unknown client certificates are taken.
//
// ns=1, below Objects/Press:
//   s=temperature  Double   21.5                        s=running  Boolean  flips every 500 ms
//   s=counter      UInt32   counts up every 100 ms      s=name     String   "GENBA"
//   s=small        Int16    -1234                       s=started  DateTime 2026-01-02T03:04:05.678Z
//   s=large        Int64    9007199254740993            s=broken   Double   status BadSensorFailure
//   s=float        Float    -7.25                       s=profile  Double[3] 1, 2, 3
//   s=setpoint     Double   50, writable                s=unsure   Double   1.0, status UncertainLastUsableValue
// below Objects/Described: level (analog item in %, 0 to 100), temp (in °C), state (multi-state), door (two-state), numbered (ns=1;i=5000)
// below Objects/Many: s=many.0 … s=many.999  Double, the number itself
"use strict";
const path = require("node:path");
const { standardUnits } = require("node-opcua-data-access");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const { MessageSecurityMode, SecurityPolicy } = require("node-opcua-secure-channel");
const { OPCUAServer } = require("node-opcua-server");
const { StatusCodes } = require("node-opcua-status-code");
const { DataType, VariantArrayType } = require("node-opcua-variant");
const freePort = require("./free_port.js");

async function main() {
  const port = await freePort();
  const folder = path.resolve(process.argv[3] || ".");
  const certificates = new OPCUACertificateManager({
    rootFolder: path.join(folder, "pki"),
    automaticallyAcceptUnknownCertificate: true,
  });
  await certificates.initialize();
  const server = new OPCUAServer({
    port,
    host: "127.0.0.1",
    hostname: "127.0.0.1",
    allowAnonymous: true,
    serverCertificateManager: certificates,
    userCertificateManager: certificates,
    userManager: { isValidUser: (user, password) => user === "genba" && password === "secret" },
    securityModes: [MessageSecurityMode.None, MessageSecurityMode.Sign, MessageSecurityMode.SignAndEncrypt],
    securityPolicies: [
      SecurityPolicy.None,
      SecurityPolicy.Basic256Sha256,
      SecurityPolicy.Aes128_Sha256_RsaOaep,
      SecurityPolicy.Aes256_Sha256_RsaPss,
    ],
    serverInfo: { applicationUri: "urn:genba:interop" },
    maxConnectionsPerEndpoint: 50,
    serverCapabilities: {
      maxSessions: 50,
      maxMonitoredItems: 100000,
      maxMonitoredItemsPerSubscription: 100000,
      operationLimits: { maxMonitoredItemsPerCall: 20000, maxNodesPerRead: 20000, maxNodesPerBrowse: 20000 },
    },
  });
  await server.initialize();
  populate(server.engine.addressSpace);
  describe(server.engine.addressSpace);
  await server.start();
  console.log(`PORT ${port}`);
}

function populate(space) {
  const namespace = space.getOwnNamespace();
  const press = namespace.addObject({ browseName: "Press", organizedBy: space.rootFolder.objects });
  const add = (name, dataType, value, more = {}) => {
    const { statusCode = StatusCodes.Good, ...options } = more;
    const variable = namespace.addVariable({ componentOf: press, browseName: name, nodeId: `s=${name}`, dataType, ...options });
    variable.setValueFromSource({ dataType, value, arrayType: options.valueRank === 1 ? VariantArrayType.Array : VariantArrayType.Scalar }, statusCode);
    return variable;
  };
  add("temperature", DataType.Double, 21.5);
  add("small", DataType.Int16, -1234);
  add("large", DataType.Int64, [2097152, 1]); // high and low word
  add("float", DataType.Float, -7.25);
  add("name", DataType.String, "GENBA");
  add("started", DataType.DateTime, new Date("2026-01-02T03:04:05.678Z"));
  add("setpoint", DataType.Double, 50, { accessLevel: "CurrentRead | CurrentWrite", userAccessLevel: "CurrentRead | CurrentWrite" });
  add("profile", DataType.Double, new Float64Array([1, 2, 3]), { valueRank: 1, arrayDimensions: [3] });
  add("broken", DataType.Double, 0, { statusCode: StatusCodes.BadSensorFailure });
  add("unsure", DataType.Double, 1, { statusCode: StatusCodes.UncertainLastUsableValue });
  const running = add("running", DataType.Boolean, true);
  const counter = add("counter", DataType.UInt32, 0);

  const many = namespace.addObject({ browseName: "Many", organizedBy: space.rootFolder.objects });
  for (let i = 0; i < 1000; i++) {
    const name = `many.${i}`;
    namespace
      .addVariable({ componentOf: many, browseName: name, nodeId: `s=${name}`, dataType: DataType.Double })
      .setValueFromSource({ dataType: DataType.Double, value: i });
  }

  let ticks = 0;
  setInterval(() => {
    ticks += 1;
    counter.setValueFromSource({ dataType: DataType.UInt32, value: ticks });
    if (ticks % 5 === 0) running.setValueFromSource({ dataType: DataType.Boolean, value: ticks % 10 === 0 });
  }, 100);
}

// What a browser takes units, ranges and names of states from.
function describe(space) {
  const namespace = space.getOwnNamespace();
  const described = namespace.addObject({ browseName: "Described", organizedBy: space.rootFolder.objects });
  const analog = (browseName, engineeringUnits, high) =>
    namespace.addAnalogDataItem({
      componentOf: described, browseName, nodeId: `s=${browseName}`, dataType: "Double", engineeringUnits,
      engineeringUnitsRange: { low: 0, high }, value: { dataType: DataType.Double, value: 1 },
    });
  analog("level", standardUnits.percent, 100);
  analog("temp", standardUnits.degree_celsius, 300);
  namespace.addMultiStateDiscrete({ componentOf: described, browseName: "state", nodeId: "s=state", enumStrings: ["off", "on", "fault"], value: 1 });
  namespace.addTwoStateDiscrete({ componentOf: described, browseName: "door", nodeId: "s=door", trueState: "closed", falseState: "open", value: true });
  namespace.addVariable({ componentOf: described, browseName: "numbered", nodeId: "i=5000", dataType: "Int32", value: { dataType: DataType.Int32, value: 3 } });
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
