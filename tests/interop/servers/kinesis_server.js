// kinesalite on loopback: Kinesis in memory. Usage: node kinesis_server.js PORT (0: one of its own choice, printed as "PORT n").
'use strict'
const kinesalite = require('kinesalite')

const server = kinesalite({ createStreamMs: 20, deleteStreamMs: 20, updateStreamMs: 20, shardLimit: 20 })
server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('PORT', server.address().port))
