# What type checkers and editors see of __init__.py.
from secateur import (
    budget as budget,
)
from secateur import (
    commands as commands,
)
from secateur import (
    costs as costs,
)
from secateur import (
    deploy as deploy,
)
from secateur import (
    envelope as envelope,
)
from secateur import (
    groups as groups,
)
from secateur import (
    integrations as integrations,
)
from secateur import (
    kernels as kernels,
)
from secateur import (
    kinds as kinds,
)
from secateur import (
    measurement as measurement,
)
from secateur import (
    optim as optim,
)
from secateur import (
    report as report,
)
from secateur import (
    runtimes as runtimes,
)
from secateur import (
    shrinking as shrinking,
)
from secateur import (
    surgery as surgery,
)
from secateur import (
    tracing as tracing,
)
from secateur import (
    train as train,
)
from secateur import (
    utils as utils,
)
from secateur.budget import Budget as Budget
from secateur.budget import LatencyTarget as LatencyTarget
from secateur.budget import reachable as reachable
from secateur.costs import LatencyTable as LatencyTable
from secateur.costs import profile as profile
from secateur.deploy import (
    export as export,
)
from secateur.deploy import (
    from_pretrained as from_pretrained,
)
from secateur.deploy import (
    load as load,
)
from secateur.deploy import (
    save as save,
)
from secateur.groups import Groups as Groups
from secateur.kinds import (
    blocks as blocks,
)
from secateur.kinds import (
    channels as channels,
)
from secateur.kinds import (
    custom as custom,
)
from secateur.kinds import (
    depth as depth,
)
from secateur.kinds import (
    experts as experts,
)
from secateur.kinds import (
    filters as filters,
)
from secateur.kinds import (
    heads as heads,
)
from secateur.kinds import (
    n_of_m as n_of_m,
)
from secateur.kinds import (
    neurons as neurons,
)
from secateur.kinds import (
    shapes as shapes,
)
from secateur.kinds import (
    weights as weights,
)
from secateur.kinds import (
    width as width,
)
from secateur.measurement import Footprint as Footprint
from secateur.measurement import measure as measure
from secateur.optim import Constant as Constant
from secateur.optim import Homotopy as Homotopy
from secateur.optim import Proximal as Proximal
from secateur.shrinking import (
    ShrinkError as ShrinkError,
)
from secateur.shrinking import (
    recalibrate as recalibrate,
)
from secateur.shrinking import (
    refit as refit,
)
from secateur.shrinking import (
    shrink as shrink,
)
from secateur.surgery import Plan as Plan
from secateur.tracing import method as method
from secateur.tracing import trace as trace

__version__: str
