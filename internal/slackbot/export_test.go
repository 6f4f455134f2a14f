package slackbot

// Patient gives a new bot ten times as long for what it does while Slack waits: a busy machine is no slow Slack. What Slack refused
// it tries again a hundred times as soon.
func (b *Bot) Patient() {
	b.wait.answer *= 10
	b.wait.open *= 10
	b.wait.show *= 10
	b.wait.pay.First /= 100
}
