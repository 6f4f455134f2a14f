package recert

import "bytes"

// control is one requirement of a framework that a campaign is evidence for, in our words, and where the evidence is.
type control struct{ framework, id, asks, evidence string }

// mapped are the requirements, each said in short and in our own words: the standards' texts are what counts.
var mapped = []control{
	{"SOC 2 (TSC 2017)", "CC6.1", "logical access to protected assets is restricted by access controls",
		"items.csv: who may ask and approve, doors, standing power; report.html"},
	{"SOC 2 (TSC 2017)", "CC6.2", "users are authorised before they get credentials, and lose them when no longer authorised",
		"decisions.csv: revoked and suspended; items.csv: keys and accounts with their age"},
	{"SOC 2 (TSC 2017)", "CC6.3", "access is granted, changed and removed by role, with least privilege and segregation of duties",
		"items.csv: state widened; decisions.csv: nobody judged themselves, two people for admin items"},
	{"ISO/IEC 27001:2022", "A.5.18", "access rights are provided, reviewed, changed and removed by rule",
		"decisions.csv; snapshot.json: the state that was reviewed"},
	{"ISO/IEC 27001:2022", "A.8.2", "privileged access rights are restricted and managed", "items.csv: admin=yes; emergency-access.csv"},
	{"PCI DSS 4.0", "7.2.4", "all accounts and their privileges are reviewed at least every six months, what is inappropriate is dealt " +
		"with, and management confirms", "MANIFEST.sha256.note and ledger-proof: when, by whom, and that nothing was left out"},
	{"NIST SP 800-53 Rev. 5", "AC-2", "accounts are managed, reviewed at a set frequency, and disabled when no longer needed",
		"decisions.csv; items.csv: orphan and dormant"},
	{"NIST SP 800-53 Rev. 5", "AC-6(7)", "privileges are reviewed at a set frequency, and reassigned or removed where needed",
		"decisions.csv: keep with reason, revoke; proved=gone in items.csv"},
}

func controls() []byte {
	rows := [][]string{{"framework", "control", "asks_for", "evidence"}}
	for _, c := range mapped {
		rows = append(rows, []string{c.framework, c.id, c.asks, c.evidence})
	}
	var b bytes.Buffer
	if err := writeCSV(&b, rows); err != nil {
		panic("writing to memory: " + err.Error()) // cannot happen
	}
	return b.Bytes()
}
