"""The same analysis by gbstats 0.8.0 on sums that pandas makes, as its authors' notebooks do: prints one JSON object."""

import json
import resource
import sys
import time

began = time.perf_counter()

import pandas
from gbstats.bayesian.tests import EffectBayesianABTest, EffectBayesianConfig, GaussianPrior
from gbstats.frequentist.tests import FrequentistConfig, SequentialConfig, SequentialTwoSidedTTest, TwoSidedTTest
from gbstats.models.statistics import (
    ProportionStatistic,
    RegressionAdjustedStatistic,
    SampleMeanStatistic,
    compute_theta,
)
from gbstats.utils import check_srm

imported = time.perf_counter()
frame = pandas.read_csv(sys.argv[1])
frame["revenue_squared"] = frame["revenue"] ** 2
frame["covariate_squared"] = frame["covariate"] ** 2
frame["product"] = frame["revenue"] * frame["covariate"]
columns = ["revenue", "revenue_squared", "converted", "covariate", "covariate_squared", "product"]
groups = frame.groupby("variation")
sums, counts = groups[columns].sum(), groups.size()
# A user in two variations, or twice, is looked for too.
assert not frame["user_id"].duplicated().any()


def row(name):
    return int(counts[name]), sums.loc[name]


def revenue(name):
    n, of = row(name)
    return SampleMeanStatistic(n=n, sum=of["revenue"], sum_squares=of["revenue_squared"])


def adjusted(name, theta):
    n, of = row(name)
    before = SampleMeanStatistic(n=n, sum=of["covariate"], sum_squares=of["covariate_squared"])
    return RegressionAdjustedStatistic(
        n=n,
        post_statistic=revenue(name),
        pre_statistic=before,
        post_pre_sum_of_products=of["product"],
        theta=theta,
    )


def converted(name):
    n, of = row(name)
    return ProportionStatistic(n=n, sum=of["converted"])


def effect(result):
    return [float(value) for value in (result.expected, *result.ci, result.p_value)]


a, b = "control", "treated"
absolute = FrequentistConfig(difference_type="absolute")
relative = FrequentistConfig(difference_type="relative")
sequential = SequentialConfig(difference_type="relative", sequential_tuning_parameter=5000)
always = SequentialTwoSidedTTest(revenue(a), revenue(b), sequential).compute_result()
flat = EffectBayesianConfig(difference_type="relative", prior_effect=GaussianPrior(proper=False))
bayes = EffectBayesianABTest(revenue(a), revenue(b), flat).compute_result()
theta = float(compute_theta(adjusted(a, 0), adjusted(b, 0)))
n_a, n_b = int(counts[a]), int(counts[b])
results = {
    "n": [n_a, n_b],
    "revenue": [float(sums.loc[a, "revenue"]), float(sums.loc[b, "revenue"])],
    "absolute": effect(TwoSidedTTest(revenue(a), revenue(b), absolute).compute_result()),
    "relative": effect(TwoSidedTTest(revenue(a), revenue(b), relative).compute_result()),
    "conversion": effect(TwoSidedTTest(converted(a), converted(b), relative).compute_result()),
    "always_valid": [float(value) for value in (*always.ci, always.p_value)],
    "bayes": [float(value) for value in (bayes.chance_to_win, *bayes.ci, *bayes.risk)],
    "cuped": effect(TwoSidedTTest(adjusted(a, theta), adjusted(b, theta), absolute).compute_result()),
    "cuped_theta": [theta],
    "srm": [float(check_srm([n_a, n_b], [0.5, 0.5]))],
}
print(
    json.dumps(
        {
            "seconds": time.perf_counter() - imported,
            "seconds_with_imports": time.perf_counter() - began,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "results": results,
        }
    )
)
