"""Before any test imports Ray: the environment of a session, since Ray's core reads its authentication mode once."""

from cluster.session import prepare_environment

prepare_environment()
