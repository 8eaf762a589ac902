// What a gateway answers the official SDK's queries, languages and mistakes; as JSON out.
import { createRequire } from 'node:module';
import { LONG, SHORT, queries } from './queries.mjs';
import { until } from './until.mjs';

const require = createRequire(process.env.SDK_FOLDER + '/');
const { createClient, rqlBuilder } = require('@extrahorizon/javascript-sdk');
const { HOST: host, KEY: key, SLOW_KEY: slowKey } = process.env;
const exh = createClient({ host, clientId: 'mailfold' });
const name = async promise => promise.then(() => 'nothing', error => error.constructor.name);
const ancestry = error => {
  const names = [];
  for (let found = error.constructor; found.name; found = Object.getPrototypeOf(found)) names.push(found.name);
  return names;
};

const report = {};
await exh.auth.authenticate({ username: 'me', password: key });

// Every operator of the builder.
for (const [subject, content, address] of [['long', LONG, 'long@example.com'], ['short', SHORT, 'short@example.com']]) {
  await exh.mails.send({ recipients: { to: [address] }, subject, body: subject, content });
}
const both = rql => rqlBuilder(rql.build()).in('subject', ['long', 'short']).build();
await until(async () => (await exh.mails.find({ rql: both(rqlBuilder()) })).page.total === 2);
report.queries = {};
for (const [operator, rql] of Object.entries(queries(rqlBuilder))) {
  const found = await exh.mails.find({ rql: both(rql) });
  report.queries[operator] = found.data.map(mail => mail.subject);
  if (operator === 'sortedDown') report.selected = found.data.map(mail => mail.content);
  if (operator === 'intermediate') report.counted = 'total' in found.page;
}

// Localizations, by the mail's language.
const greet = (language, templateName = 'greeting') =>
  exh.mails.send({ recipients: { to: ['dirk@example.com'] }, templateName, language, content: { name: 'Dirk' } });
report.greetings = [(await greet('NL')).subject, (await greet('EN')).subject, (await greet('FR')).subject];

// Errors by their classes.
const mail = { recipients: { to: ['a@example.com'] }, subject: 'x', body: 'y' };
report.errors = {
  missingKey: await name(greet('NL', 'unfinished')),
  missingValue: await name(exh.mails.send({ recipients: { to: ['a@example.com'] }, templateName: 'greeting', content: {} })),
  bothKinds: await name(exh.mails.send({ ...mail, templateName: 'greeting' })),
  noSubject: await name(exh.mails.send({ recipients: mail.recipients, body: 'y' })),
  noTemplate: await name(exh.mails.send({ recipients: mail.recipients, templateId: 'none', content: {} })),
  tooLarge: await name(exh.mails.send({ ...mail, body: 'x'.repeat(300_000) })),
  noBody: await name(exh.mails.send()),
  unknownHash: await name(exh.mails.track('AAAA')),
  notLoggedIn: await name(createClient({ host, clientId: 'x' }).mails.find()),
  orWithPage: await name(exh.mails.find({ rql: '?or(eq(id,a),limit(1))' })),
};
const stranger = createClient({ host, clientId: 'mailfold' });
const wrong = await stranger.auth.authenticate({ username: 'me', password: 'wrong' }).catch(error => error);
const stale = await stranger.auth.authenticate({ refreshToken: 'mft_wrong' }).catch(error => error);
report.grants = [wrong, stale].map(error => [error.constructor.name, error.exhError?.constructor.name]);

// More than the rate that was agreed upon.
const slow = createClient({ host, clientId: 'mailfold' });
await slow.auth.authenticate({ username: 'me', password: slowKey });
const over = await until(async () => slow.mails.send(mail).then(() => undefined, error => error));
report.over = { classes: ancestry(over), status: over.status, code: over.response.code };

report.internationalized = (await exh.mails.send({ ...mail, recipients: { to: ['二ノ宮@黒川.日本'] } })).recipients.to;
console.log(JSON.stringify(report));
