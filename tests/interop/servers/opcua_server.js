// An OPC UA server made of node-opcua: loopback only, fixed address space, limits raised for large tag lists.
//
//   node opcua_server.js PORT FOLDER [SETTINGS]    PORT 0 = any free one; FOLDER keeps its certificates
//
// Prints `PORT n` once it listens, then serves until it is killed. Anonymous or genba / secret; policies None, Basic256Sha256,
// Aes128_Sha256_RsaOaep, Aes256_Sha256_RsaPss; unknown client certificates are taken.
// SETTINGS is JSON: `certificate` and `key` (PEM files) are the server's; with `strict: ["pki", "users"]` only clients in
// FOLDER/pki/trusted/certs and users in FOLDER/users/trusted/certs are taken; `policies` are the names of those that are offered.
//
// ns=1, below Objects/Press:
//   s=temperature  Double   21.5                        s=running  Boolean  flips every 500 ms
//   s=counter      UInt32   counts up every 100 ms      s=name     String   "GENBA"
//   s=small        Int16    -1234                       s=started  DateTime 2026-01-02T03:04:05.678Z
//   s=large        Int64    9007199254740993            s=broken   Double   status BadSensorFailure
//   s=float        Float    -7.25                       s=profile  Double[3] 1, 2, 3
//   s=setpoint     Double   50, writable                s=unsure   Double   1.0, status UncertainLastUsableValue
//   s=ramp     Double   one more every 100 ms, EURange 0 … 200      s=plain  Double  the same without a range
//   s=flat     Double   7, written every 100 ms with a new time
//   s=names    String[2] "a", "b"    s=matrix   Int16[2][3] 1 … 6    s=blob  ByteString 00 ff    s=label  LocalizedText "läuft"
//   s=totals   UInt64[2] 7, 2^63     s=node     NodeId ns=1;s=ramp   s=code  StatusCode BadNodeIdUnknown
//   s=serverState  an enumeration, 3      s=axes  BuildInfo[2] (structures) of product "x" and "y"
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
  const settings = JSON.parse(process.argv[4] || "{}");
  const known = async (name) => {
    const manager = new OPCUACertificateManager({
      rootFolder: path.join(folder, name),
      automaticallyAcceptUnknownCertificate: !(settings.strict || []).includes(name),
    });
    await manager.initialize();
    return manager;
  };
  const certificates = await known("pki");
  const server = new OPCUAServer({
    port,
    host: "127.0.0.1",
    hostname: "127.0.0.1",
    allowAnonymous: true,
    serverCertificateManager: certificates,
    userCertificateManager: await known("users"),
    ...(settings.certificate ? { certificateFile: settings.certificate, privateKeyFile: settings.key } : {}),
    userManager: { isValidUser: (user, password) => user === "genba" && password === "secret" },
    securityModes: [MessageSecurityMode.None, MessageSecurityMode.Sign, MessageSecurityMode.SignAndEncrypt],
    securityPolicies: (settings.policies || ["None", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"]).map(
      (name) => SecurityPolicy[name],
    ),
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
  const shaped = (name, dataType, value, more = {}) => {
    const { arrayType = VariantArrayType.Array, dimensions, ...options } = more;
    const variable = namespace.addVariable({ componentOf: press, browseName: name, nodeId: `s=${name}`, dataType, ...options });
    variable.setValueFromSource({ dataType, value, arrayType, dimensions });
    return variable;
  };
  shaped("names", DataType.String, ["a", "b"], { valueRank: 1 });
  shaped("totals", DataType.UInt64, [[0, 7], [2147483648, 0]], { valueRank: 1 });
  shaped("matrix", DataType.Int16, new Int16Array([1, 2, 3, 4, 5, 6]), {
    valueRank: 2,
    arrayType: VariantArrayType.Matrix,
    dimensions: [2, 3],
  });
  add("blob", DataType.ByteString, Buffer.from([0, 255]));
  add("label", DataType.LocalizedText, { text: "läuft", locale: "de" });
  add("code", DataType.StatusCode, StatusCodes.BadNodeIdUnknown);
  namespace
    .addVariable({ componentOf: press, browseName: "serverState", nodeId: "s=serverState", dataType: "ServerState" })
    .setValueFromSource({ dataType: DataType.Int32, value: 3 });
  const axes = ["x", "y"].map((productName) => space.constructExtensionObject(space.findDataType("BuildInfo"), { productName }));
  namespace
    .addVariable({ componentOf: press, browseName: "axes", nodeId: "s=axes", dataType: "BuildInfo", valueRank: 1 })
    .setValueFromSource({ dataType: DataType.ExtensionObject, value: axes, arrayType: VariantArrayType.Array });
  const ramp = namespace.addAnalogDataItem({
    componentOf: press,
    browseName: "ramp",
    nodeId: "s=ramp",
    dataType: DataType.Double,
    engineeringUnitsRange: { low: 0, high: 200 },
    instrumentRange: { low: 0, high: 200 },
  });
  add("node", DataType.NodeId, ramp.nodeId);
  const plain = add("plain", DataType.Double, 0);
  const flat = add("flat", DataType.Double, 7);
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
    ramp.setValueFromSource({ dataType: DataType.Double, value: ticks });
    plain.setValueFromSource({ dataType: DataType.Double, value: ticks });
    flat.setValueFromSource({ dataType: DataType.Double, value: 7 });
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
