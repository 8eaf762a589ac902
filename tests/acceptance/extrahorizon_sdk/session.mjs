// One session of the official SDK with a gateway: what it is asked on the command line in, what it answered as JSON out.
import { createRequire } from 'node:module';
import { until } from './until.mjs';

const require = createRequire(process.env.SDK_FOLDER + '/');
const { createClient, rqlBuilder, ResourceUnknownError } = require('@extrahorizon/javascript-sdk');
const { HOST: host, KEY: key } = process.env;
const exh = createClient({ host, clientId: 'mailfold' });
const name = async promise => promise.then(() => 'nothing', error => error.constructor.name);

const report = {};
report.health = await exh.mails.health();
report.wrongKey = await name(exh.auth.authenticate({ username: 'me', password: 'wrong' })) ;
const tokens = await exh.auth.authenticate({ username: 'me', password: key });
report.tokens = { expiresIn: tokens.expiresIn, names: Object.keys(tokens).sort(), hidden: !JSON.stringify(tokens).includes(key) };

report.plain = await exh.mails.send({
  recipients: { to: ['anna@example.com'], bcc: ['ben@example.com'] },
  from: 'news@example.com',
  replyTo: ['support@example.com'],
  subject: 'A, (b) & 100% c',
  body: 'plain text',
  attachments: [{ name: 'report.txt', content: Buffer.from('a report').toString('base64'), type: 'text/plain' }],
});
const template = await until(async () => {
  try {
    return await exh.mails.send({
      recipients: { to: ['cy@example.com'] },
      templateId: 'welcome',
      language: 'EN',
      content: { firstName: 'Cy', snake_case: 1, creationTimestamp: 5 },
      body: 'Hello in plain text',
    });
  } catch (error) {
    if (error instanceof ResourceUnknownError) return undefined; // not projected yet
    throw error;
  }
});
report.template = template;
report.refused = await name(exh.mails.send({ recipients: { to: ['nobody'] }, subject: 'x', body: 'y' }));
report.invalid = await name(exh.mails.find({ rql: '?nonsense(id,1)' }));

report.found = await until(async () => {
  const found = await exh.mails.findById(report.plain.id);
  return found?.awsMessageId && found;
});
report.bySubject = (await exh.mails.findFirst({ rql: rqlBuilder().eq('subject', 'A, (b) & 100% c').build() }))?.id;
report.byContent = (await until(() => exh.mails.findFirst({ rql: rqlBuilder().eq('content.firstName', 'Cy').build() })))?.id;
report.none = (await exh.mails.findFirst({ rql: rqlBuilder().in('id', ['x', 'y']).build() })) ?? null;
report.page = (await exh.mails.find({ rql: rqlBuilder().sort('-creation_timestamp').select(['subject']).limit(1, 1).build() }));
report.combined = (await exh.mails.find({
  rql: rqlBuilder().or(
    rqlBuilder().like('subject', 'WELCOME').intermediate(),
    rqlBuilder().contains('body').out('subject', ['other']).intermediate(),
  ).skipCount().build(),
})).data.length;

for (let number = 0; number < 53; number += 1) {
  await exh.mails.send({ recipients: { to: [`many${number}@example.com`] }, subject: 'many', body: `${number}` });
}
const many = await until(async () => {
  const found = await exh.mails.findAll({ rql: rqlBuilder().eq('subject', 'many').build() });
  return found.length === 53 && found;
});
report.many = new Set(many.map(mail => mail.id)).size;

// The image's address, as it stands in the mail that the server got.
const inbox = await until(async () => { const got = await fetch(process.env.INBOX); return got.ok && got.text(); });
const hash = inbox.match(/mail\/v1\/([A-Za-z0-9_-]+)\/open/)[1];
report.tracked = [await exh.mails.track(hash), await exh.mails.track(hash)];
report.views = (await until(async () => {
  const found = await exh.mails.findById(template.id);
  return found?.views === 2 && found;
})).views;

await exh.mails.send({ recipients: { to: ['later@example.com'] }, subject: 'queued', body: 'later' });
report.outbound = await until(async () => {
  const found = await exh.mails.findOutbound({ rql: rqlBuilder().eq('subject', 'queued').build() });
  return found.page.total === 1 && found;
});
const known = await exh.auth.authenticate({ refreshToken: tokens.refreshToken });
report.refreshed = known.accessToken !== undefined && (await exh.mails.find()).page.total;
console.log(JSON.stringify(report));
