"""A row of each public data set, in the columns of the cards that conf/dataset names."""

IMAGE = b"..."  # no function here opens an image

# HuggingFaceM4/A-OKVQA; the row is the first of the authors' validation file, one of its answers changed.
AOKVQA = {
    "image": IMAGE, "question_id": "22jbM6gDxdaMaunuzgrsBB", "question": "What is in the motorcyclist's mouth?",
    "choices": ["toothpick", "food", "popsicle stick", "cigarette"], "correct_choice_idx": 3,
    "direct_answers": str(["cigarette"] * 9 + ["smoke"]), "difficult_direct_answer": False,
    "rationales": ["He's smoking while riding.", "The man is smoking."],
}  # fmt: skip

CHARTQA = {"image": IMAGE, "query": "How many food item is shown?", "label": ["14"], "human_or_machine": 0}

DOCVQA = {"questionId": "49153", "question": "What is the date?", "image": IMAGE, "answers": ["1/8/93", "1/8/1993"]}

TEXTVQA = {
    "question_id": 34602, "question": "what brand?", "image": IMAGE, "answers": ["nous les gosses"] * 10,
    "ocr_tokens": ["NOUS", "LES"],
}  # fmt: skip

AI2D = {"question": "Which is a producer?", "options": ["hawk", "frog", "grass"], "answer": "2", "image": IMAGE}

# HuggingFaceM4/the_cauldron, ai2d, after `each: texts` has made each turn a row.
CAULDRON = {
    "images": [IMAGE],
    "texts": {
        "user": "Question: What do respiration and combustion give out\nChoices:\nA. Oxygen\nB. Carbon dioxide\n"
        "C. Nitrogen\nD. Heat\nAnswer with the letter.",
        "assistant": "Answer: B", "source": "AI2D",
    },
}  # fmt: skip

SCIENCEQA = {
    "image": IMAGE, "question": "Which is farthest north?", "choices": ["Maine", "Utah"], "answer": 0, "hint": "Look.",
    "task": "closed choice", "grade": "grade2", "subject": "social science", "topic": "geography",
    "category": "Geography", "skill": "Read a map", "lecture": "Maps have four directions.", "solution": "Maine is.",
}  # fmt: skip

MATHVISION = {
    "id": "6", "question": "Which picture shows\n<image1>?", "options": ["one", "two"], "image": "images/6.jpg",
    "decoded_image": IMAGE, "answer": "B", "solution": None, "level": 3, "subject": "logic",
}  # fmt: skip

# Luckyjhg/Geo170K, qa_tuning: the wording of its requests.
GEO = {
    "image": "geoqa_plus/1.png",
    "conversations": [
        {"from": "human", "value": "<image>\nFirst perform reasoning, then finally select the question from the "
         "choices in the following format: Answer: xxx.\n"
         "Question:In triangle ABC, the size of angle CED is ()\nChoices:\n"
         "A:40°\nB:60°\nC:120°\nD:140°"},
        {"from": "gpt", "value": "Angle C is 40°, and DE is parallel to BC.\nAnswer:A"},
    ],
}  # fmt: skip

MATHVISTA = {
    "pid": "1", "question": "How far does it move?", "image": "images/1.jpg", "decoded_image": IMAGE, "choices": None,
    "unit": None, "precision": 1.0, "answer": "1.2", "question_type": "free_form", "answer_type": "float",
    "metadata": {"category": "math-targeted-vqa", "source": "SciBench"},
    "query": "Hint: Please answer the question requiring a floating-point number with one decimal place.\n"
    "Question: How far does it move?",
}  # fmt: skip

OCRBENCH = {
    "dataset": "HME100k", "question": "Write the formula.", "question_type": "Formula", "answer": ["x ^ 2"],
    "image": IMAGE,
}  # fmt: skip

MMSTAR = {  # the first row of the set
    "index": 0, "image": IMAGE, "answer": "A", "category": "coarse perception", "l2_category": "image scene and topic",
    "question": "Which option describe the object relationship in the image correctly?\nOptions: A: The suitcase is on "
    "the book., B: The suitcase is beneath the cat., C: The suitcase is beneath the bed., D: The suitcase is beneath "
    "the book.",
}  # fmt: skip

MMMU = {
    "id": "validation_Accounting_1", "question": "<image 1> Baxter Company has ... what are the costs?",
    "options": "['$6', '$7', '$8', '$9']", "explanation": "", **{f"image_{i}": None for i in range(2, 8)},
    "image_1": IMAGE, "img_type": "['Tables']", "answer": "B", "topic_difficulty": "Medium",
    "question_type": "multiple-choice", "subfield": "Managerial Accounting",
}  # fmt: skip

# Questions of MMMU and, last, of MATH-Vision, cut short.
TAGGED = {
    "Which explains the trend shown in the <image 1>?": "Which explains the trend shown in the image?",
    "<image 1> of Louis Black was painted by whom?": "The image of Louis Black was painted by whom?",
    "Refer to the figure <image 1>, which term is it?": "Refer to the figure the image, which term is it?",
    "<image 1> Which nutrient seems to be absent?": "Which nutrient seems to be absent?",
    "<image 1>The uniform rod is held in place.": "The uniform rod is held in place.",
    "Calculate the cost by the formula. <image 1>": "Calculate the cost by the formula.",
    "Children in ___ households benefit from <image 1>.": "Children in ___ households benefit from the image.",
    "These are forward rates: <image 1> In addition, some.": "These are forward rates: In addition, some.",
    "In clockwise direction:<image 1>The line BA turns.": "In clockwise direction: The line BA turns.",
    "They are in the table.<image 1> The rate was": "They are in the table. The rate was",
    "It was constructed in approximately the <image 1>": "It was constructed in approximately the image",
    "Match the dance with the figures <image 1>": "Match the dance with the figures",
    "The work (<image 1>) shown is of whom?": "The work (the image) shown is of whom?",
    "Were works such as <image 1> shown?": "Were works such as the image shown?",
    "<image 1> <image 2> In contrast with the poem": "In contrast with the poem",
    "word<image 1>word": "word the image word",
    "When the ant <image1> walks home <image2> along": "When the ant image 1 walks home image 2 along",
    "The segments on the side of the\n<image1>\n5 x 5 square": "The segments on the side of the\n5 x 5 square",
    "Which hexagons fit so\n<image1>that one can travel?": "Which hexagons fit so\nthat one can travel?",
    "From above: <image1>. From the front: <image2>.": "From above: image 1. From the front: image 2.",
    "Which is opposite to <image3>?\n<image4>": "Which is opposite to image 3?",
}
