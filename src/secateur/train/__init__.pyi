# What type checkers and editors see of __init__.py.
from secateur.train.checkpoint import CheckpointError as CheckpointError
from secateur.train.data import Data as Data
from secateur.train.distill import Distill as Distill
from secateur.train.finishing import finish as finish
from secateur.train.loggers import JsonLines as JsonLines
from secateur.train.loggers import Logger as Logger
from secateur.train.loggers import Tracker as Tracker
from secateur.train.loop import Interrupted as Interrupted
from secateur.train.loop import Loop as Loop
from secateur.train.settings import Settings as Settings
