// Verifies requests with the public library of Standard Webhooks. Standard input: {"secret", "requests": [{"headers", "body"}]}.
// Prints one line a request: `ok`, or why not.

'use strict';

const { createRequire } = require('module');

const { Webhook } = createRequire(process.argv[2])('standardwebhooks');
const { secret, requests } = JSON.parse(require('fs').readFileSync(0, 'utf8'));
for (const { headers, body } of requests) {
  try {
    new Webhook(secret).verify(body, headers);
    console.log('ok');
  } catch (error) {
    console.log(error.message);
  }
}
