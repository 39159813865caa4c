// The other side of opcua.py, made of node-opcua, in two roles:
//
//   node opcua_source.js serve     a server on loopback, no security: s=slow.0 … s=slow.9999 written once a second, in ten parts of
//                                  1000 every 100 ms, and s=fast.0 … s=fast.999 every 100 ms; Double. Prints `PORT n`.
//   node opcua_source.js client    node-opcua's own client. A line `ENDPOINT PREFIX COUNT PERIOD_MS WARM_UP_S SECONDS` on standard input is one
//                                  measurement: subscribe, wait, measure. Prints {"values": n, "cpu_s": s} for each.
//
// It finds its packages by NODE_PATH (tests/interop/node_modules).
"use strict";
const net = require("node:net");
const os = require("node:os");
const path = require("node:path");
const readline = require("node:readline");
const { mkdtempSync } = require("node:fs");

const SLOW = 10000;
const FAST = 1000;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function certificates() {
  const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
  const rootFolder = path.join(mkdtempSync(path.join(os.tmpdir(), "genba-opcua-")), "pki");
  const manager = new OPCUACertificateManager({ rootFolder, automaticallyAcceptUnknownCertificate: true });
  await manager.initialize();
  return manager;
}

const freePort = () =>
  new Promise((resolve) => {
    const probe = net.createServer();
    probe.listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });

async function serve() {
  const { OPCUAServer } = require("node-opcua-server");
  const { DataType } = require("node-opcua-variant");
  const port = await freePort();
  const manager = await certificates();
  const server = new OPCUAServer({
    port,
    host: "127.0.0.1",
    hostname: "127.0.0.1",
    serverCertificateManager: manager,
    userCertificateManager: manager,
    maxConnectionsPerEndpoint: 20,
    serverCapabilities: {
      maxSessions: 20,
      maxMonitoredItems: 200000,
      maxMonitoredItemsPerSubscription: 100000,
      operationLimits: { maxMonitoredItemsPerCall: 20000, maxNodesPerRead: 20000 },
    },
  });
  await server.initialize();
  const space = server.engine.addressSpace;
  const namespace = space.getOwnNamespace();
  const make = (prefix, count) => {
    const folder = namespace.addObject({ browseName: prefix, organizedBy: space.rootFolder.objects });
    return Array.from({ length: count }, (_, i) =>
      namespace.addVariable({
        componentOf: folder,
        browseName: `${prefix}.${i}`,
        nodeId: `s=${prefix}.${i}`,
        dataType: DataType.Double,
        minimumSamplingInterval: 100,
      }),
    );
  };
  const slow = make("slow", SLOW);
  const fast = make("fast", FAST);
  let tick = 0;
  const write = (variables) => {
    for (const variable of variables) variable.setValueFromSource({ dataType: DataType.Double, value: tick + 0.5 });
  };
  write(slow);
  write(fast);
  setInterval(() => {
    tick += 1;
    write(fast);
    const part = (tick % 10) * (SLOW / 10);
    write(slow.slice(part, part + SLOW / 10));
  }, 100);
  await server.start();
  console.log(`PORT ${port}`);
}

async function measure(endpoint, prefix, count, period, warmUp, seconds, manager) {
  const { OPCUAClient, TimestampsToReturn, AttributeIds, ClientMonitoredItemGroup } = require("node-opcua-client");
  const client = OPCUAClient.create({ endpointMustExist: false, clientCertificateManager: manager });
  await client.connect(endpoint);
  const session = await client.createSession();
  const subscription = await session.createSubscription2({
    requestedPublishingInterval: period,
    requestedLifetimeCount: 600,
    requestedMaxKeepAliveCount: 10,
    maxNotificationsPerPublish: 10000,
    publishingEnabled: true,
    priority: 1,
  });
  let values = 0;
  const options = { samplingInterval: period, discardOldest: true, queueSize: 10 };
  for (let from = 0; from < count; from += 1000) {
    const nodes = Array.from({ length: Math.min(1000, count - from) }, (_, i) => ({
      nodeId: `ns=1;s=${prefix}.${from + i}`,
      attributeId: AttributeIds.Value,
    }));
    const group = ClientMonitoredItemGroup.create(subscription, nodes, options, TimestampsToReturn.Both);
    group.on("changed", () => {
      values += 1;
    });
  }
  const deadline = Date.now() + 30000;
  while (values < count && Date.now() < deadline) await pause(50);
  await pause(warmUp * 1000);
  const before = process.cpuUsage();
  const first = values;
  await pause(seconds * 1000);
  const used = process.cpuUsage(before);
  const found = { values: values - first, cpu_s: (used.user + used.system) / 1e6 };
  await subscription.terminate();
  await session.close();
  await client.disconnect();
  return found;
}

async function client() {
  const manager = await certificates();
  console.log("READY");
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [endpoint, prefix, ...numbers] = line.split(" ");
    console.log(JSON.stringify(await measure(endpoint, prefix, ...numbers.map(Number), manager)));
  }
  process.exit(0);
}

(process.argv[2] === "serve" ? serve() : client()).catch((error) => {
  console.error(error);
  process.exit(1);
});
