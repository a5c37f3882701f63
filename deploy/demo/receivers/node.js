// A third-party developer's server in Node.js: the guide's code, taken out of the guide unchanged, and around it what the
// guide leaves to the developer: Express, a port, the handlers.
//
//   LOKROOM_WEBHOOK_SECRET=whsec_… PORT=3001 node node.js
//
// Express is looked for in .dev/tools/node of this checkout. One line a request on standard output.

'use strict';

const fs = require('fs');
const path = require('path');
const { createRequire } = require('module');

const root = path.join(__dirname, '..', '..', '..');
const express = createRequire(path.join(root, '.dev', 'tools', 'node', 'package.json'))('express');

const guide = fs.readFileSync(path.join(root, 'docs', 'guide', 'webhooks-guide.fr.md'), 'utf8');
const block = /^### Node\.js\n\n```javascript\n([^]*?)^```$/m.exec(guide);
if (!block) throw new Error('the guide has no JavaScript block below "### Node.js"');

const app = express();
app.use((req, res, next) => {
  res.on('finish', () => {
    console.log(`node ${res.statusCode} ${req.get('x-lok-event')} ${req.get('x-lok-event-id')} attempt ${req.get('x-lok-attempt')}`);
  });
  next();
});
app.use(express.json({ limit: '1mb' }));

const handleBookingCreated = (data) => console.log(`node handles booking ${data.id}`);
const handlePaymentSucceeded = (data) => console.log(`node handles payment ${data.paymentIntentId}`);

new Function('require', 'app', 'handleBookingCreated', 'handlePaymentSucceeded', block[1])(
  require, app, handleBookingCreated, handlePaymentSucceeded,
);

const server = app.listen(Number(process.env.PORT), '127.0.0.1', (error) => {
  if (error) throw error;
  console.log(`node listens on 127.0.0.1:${server.address().port}`);
});
