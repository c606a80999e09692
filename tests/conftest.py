"What all tests share: Hypothesis without deadlines (CI machines stall) and, on CI, without chance."
import os
from hypothesis import settings

settings.register_profile('dev', deadline=None)
settings.register_profile('ci', deadline=None, derandomize=True)
settings.load_profile('ci' if os.environ.get('CI') else 'dev')
