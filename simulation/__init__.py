"""U and J over Ray Data: scenarios, rollout, judge, corpora and evaluation. Imports agentmill, never its siblings."""
