// What the SDK's rqlBuilder writes for each of its operators, asked of two mails: which of them are found.

export const LONG = { list: [5, 'six', 7], items: [{ n: 70, tags: ['a'] }, { n: 20 }], plan: 'gold (new), 100%', code: '5', at: 60 };
export const SHORT = { list: [5], items: [{ n: 95 }], plan: 'none', at: 30 };

/** A builder -> what it finds, by the names under which it is reported. */
export const queries = rql => {
  const part = () => rql();
  return {
    eq: part().eq('content.plan', 'gold (new), 100%'),
    eqCast: part().eq('content.code', 'string:5'),
    ne: part().ne('content.plan', 'none'),
    gt: part().gt('content.at', '30'),
    ge: part().ge('content.at', '30'),
    lt: part().lt('content.at', '60'),
    le: part().le('content.at', '60'),
    in: part().in('content.plan', ['none', 'other']),
    inNothing: part().in('content.plan', []),
    out: part().out('content.plan', ['none', 'other']),
    like: part().like('content.plan', 'GOLD (NEW)'),
    contains: part().contains('content.code'),
    excludes: part().excludes('content.code'),
    containsOne: part().contains('content.items', part().gt('n', '60').intermediate(), part().lt('n', '90').intermediate()),
    containsBoth: part().contains('content.items', part().gt('n', '60').lt('n', '90').intermediate()),
    excludesOne: part().excludes('content.items', part().gt('n', '60').intermediate(), part().lt('n', '90').intermediate()),
    place: part().eq('content.list.1', 'six'),
    placeInItems: part().eq('content.items.1.n', '20'),
    longerThanTwo: part().contains('content.list.2'),
    atMostTwo: part().excludes('content.list.2'),
    recipients: part().excludes('recipients.to.1').eq('recipients.to.0', 'long@example.com'),
    list: part().eq('content.list', '5'),
    and: part().and(part().eq('content.at', '60').intermediate(), part().ne('content.plan', 'none').intermediate()),
    or: part().or(part().eq('content.at', '60').gt('content.at', '90').intermediate(), part().eq('content.at', '30').intermediate()),
    andWithPage: part().and(part().eq('content.at', '60').select(['subject']).limit(5).sort('-creationTimestamp').intermediate()),
    intermediate: rql(part().ge('content.at', '30').select('subject').skipCount().limit(5).intermediate()),
    sortedDown: part().sort('-content.at').select(['subject', 'content.items.n']),
    sortedUp: part().sort(['+content.at', 'subject']),
    limited: part().sort('content.at').limit(1, 1),
    handWritten: rql('?and(eq(content.at,60),select(subject))'),
    shorthand: rql('content.at=ge=30&content.at<60'),
  };
};
