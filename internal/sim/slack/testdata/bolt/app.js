// A small app on Slack's own SDK (Bolt for JavaScript), for a test of the Slack simulator. It prints what Bolt made of each request
// as one line of JSON, after the port at which it listens.
'use strict';
const {App, LogLevel} = require('@slack/bolt');

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');
const channel = process.env.CHANNEL;
const plain = (text) => ({type: 'plain_text', text});

const app = new App({
  token: process.env.TOKEN,
  signingSecret: process.env.SECRET,
  endpoints: ['/slack/commands', '/slack/interactions'],
  clientOptions: {slackApiUrl: process.env.API, retryConfig: {retries: 0}},
  logLevel: LogLevel.ERROR,
});

// who is what Bolt understood of where a request comes from.
const who = (context) => ({
  team: context.teamId ?? '', enterprise: context.enterpriseId ?? '', whole: context.isEnterpriseInstall, user: context.userId,
});

// code is the error that the client makes of a refusal.
const code = (call) => call.then(() => 'ok', (err) => err.data?.error ?? String(err));

app.command('/breakglass', async ({ack, body, client, context}) => {
  await ack();
  await client.views.open({
    trigger_id: body.trigger_id,
    view: {
      type: 'modal', callback_id: 'ask', title: plain('Ask'), submit: plain('Send'), close: plain('Cancel'), notify_on_close: true,
      blocks: [{type: 'input', block_id: 'reason', label: plain('Why?'), element: {type: 'plain_text_input', action_id: 'value'}}],
    },
  });
  say({event: 'command', text: body.text, ...who(context)});
});

app.view('ask', async ({ack, view, client, context}) => {
  const reason = view.state.values.reason.value.value;
  if (reason.length < 5) {
    await ack({response_action: 'errors', errors: {reason: 'Please say more.'}});
    return;
  }
  await ack();
  await client.chat.postMessage({
    channel, text: reason,
    blocks: [{type: 'section', text: plain(reason)},
      {type: 'actions', elements: [{type: 'button', action_id: 'approve', value: '7', text: plain('Approve')}]}],
  });
  say({event: 'form', ...who(context)});
});

app.view({callback_id: 'ask', type: 'view_closed'}, async ({ack, body, context}) => {
  await ack();
  say({event: 'closed', cleared: body.is_cleared, ...who(context)});
});

app.action('approve', async ({ack, action, body, client, context, respond}) => {
  await ack();
  await client.chat.update({channel: body.channel.id, ts: body.message.ts, text: 'approved', blocks: []});
  await respond({text: 'thank you', response_type: 'ephemeral', replace_original: false});
  const {user} = await client.users.info({user: body.user.id});
  const order = await client.chat.scheduleMessage({channel, text: 'tomorrow', post_at: Math.floor(Date.now() / 1000) + 86400});
  say({
    event: 'click', value: action.value, name: user.real_name, ...who(context),
    link: (await client.chat.getPermalink({channel: body.channel.id, message_ts: body.message.ts})).permalink,
    unscheduled: await code(client.chat.deleteScheduledMessage({channel, scheduled_message_id: order.scheduled_message_id})),
    gone: await code(client.chat.postMessage({channel: 'C0GONE', text: 'x'})),
    bad: await code(client.chat.postMessage({channel, text: 'x', blocks: [{type: 'header', text: plain('x'.repeat(151))}]})),
    old: await code(client.views.open({trigger_id: '1.2.x', view: {type: 'modal', title: plain('x'), blocks: []}})),
  });
});

app.error(async (err) => say({event: 'error', text: String(err.stack ?? err)}));

app.start({host: '127.0.0.1', port: 0}).then(
  (server) => say({event: 'listening', port: server.address().port}),
  (err) => { say({event: 'error', text: String(err)}); process.exit(1); },
);
